package main

import (
	"fmt"
	"strings"
)

// A session is a list of etcdctl commands, one a line, words split at blanks, 'quotes' around words with blanks.
//
//	# remark
//	put a 1
//	| a line of standard input for the command above
//	~ watch a --rev=1         runs until it is silent for a while, then is interrupted
//	? member list             is compared with its words in any order
//	&w watch a                starts in the background, as w
//	=w                        interrupts w and shows all that it printed
//	lease grant 60 > L        keeps the first lease or member id of the answer as $L
type step struct {
	line       int
	words      []string
	input      string
	silent     bool   // ends when silent
	anyOrder   bool   // the order of words says nothing
	background string // starts under this name
	collect    string // interrupts the one of this name
	keep       string // variable for the id in the answer
}

func (s step) String() string {
	if s.collect != "" {
		return "=" + s.collect
	}
	return strings.Join(s.words, " ")
}

func parse(text string) (steps []step, err error) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " ")
		switch {
		case line == "" || line[0] == '#':
			continue
		case line[0] == '|':
			if len(steps) == 0 {
				return nil, fmt.Errorf("line %d: input without a command", i+1)
			}
			steps[len(steps)-1].input += strings.TrimPrefix(strings.TrimPrefix(line, "|"), " ") + "\n"
			continue
		case line[0] == '=':
			steps = append(steps, step{line: i + 1, collect: line[1:]})
			continue
		}
		s := step{line: i + 1, words: split(line)}
		if first := s.words[0]; first == "~" {
			s.silent, s.words = true, s.words[1:]
		} else if first == "?" {
			s.anyOrder, s.words = true, s.words[1:]
		} else if first[0] == '&' {
			s.background, s.words = first[1:], s.words[1:]
		}
		if n := len(s.words); n > 2 && s.words[n-2] == ">" {
			s.keep, s.words = s.words[n-1], s.words[:n-2]
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// split cuts at blanks outside single quotes; ” is an empty word.
func split(line string) (words []string) {
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range line + " " {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	return words
}
