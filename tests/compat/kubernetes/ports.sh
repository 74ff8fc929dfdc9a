# Ports for servers of a script.

free_port() { # below the ports that outgoing connections take
  local port
  while port=$((12000 + RANDOM % 18000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}
