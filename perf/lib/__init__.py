"""What a comparison is made of: programs, servers, loads, figures, reports."""
