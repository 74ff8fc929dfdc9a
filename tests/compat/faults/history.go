package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	keysOfRound = 4
	judgeWithin = time.Minute
)

type op int

const (
	read op = iota
	put
	swap
)

type input struct {
	op                   op
	key, expected, value string
}

type output struct {
	value   string // that was read, also by a swap that did not take place; empty where there is none
	swapped bool
}

// history is what clients were told in a round, on keys that no other round uses. All values that are written differ.
type history struct {
	keys  []string
	begun time.Time

	lock  sync.Mutex
	calls []porcupine.Operation
	known []bool // whether the call was answered
}

func newHistory(round int) *history {
	h := &history{begun: time.Now()}
	for n := range keysOfRound {
		h.keys = append(h.keys, fmt.Sprintf("faults/%d/%d", round, n))
	}
	return h
}

// begin files a call, and returns its number.
func (h *history) begin(client int, in input) int {
	h.lock.Lock()
	defer h.lock.Unlock()
	h.calls = append(h.calls, porcupine.Operation{ClientId: client, Input: in, Call: int64(time.Since(h.begun)), Return: math.MaxInt64})
	h.known = append(h.known, false)
	return len(h.calls) - 1
}

// end files the answer of a call; behind an error nobody knows whether it was done.
func (h *history) end(call int, out output, err error) {
	h.lock.Lock()
	defer h.lock.Unlock()
	if err == nil {
		h.calls[call].Output, h.calls[call].Return = out, int64(time.Since(h.begun))
		h.known[call] = true
	}
}

// gap is the longest time in which no write was acknowledged.
func (h *history) gap() time.Duration {
	var answered []int64
	for n, call := range h.calls {
		if h.known[n] && call.Input.(input).op != read {
			answered = append(answered, call.Return)
		}
	}
	slices.Sort(answered)
	var longest int64
	for n := 1; n < len(answered); n++ {
		longest = max(longest, answered[n]-answered[n-1])
	}
	return time.Duration(longest)
}

// judge tells how many calls were answered and how many were not, or what is not linearizable.
func (h *history) judge() (told, without int, err error) {
	seen := map[string]bool{}
	for n, call := range h.calls {
		if h.known[n] {
			told++
			seen[call.Output.(output).value] = true
		}
	}
	var judged []porcupine.Operation
	for n, call := range h.calls {
		in := call.Input.(input)
		switch {
		case h.known[n]:
			judged = append(judged, call)
		// A write without an answer was done at some time if its value was seen. If it was not, it may be left out: no answer
		// depends on it.
		case in.op != read && seen[in.value]:
			call.Output = output{swapped: true}
			judged = append(judged, call)
		}
	}
	for _, key := range h.keys {
		of := slices.DeleteFunc(slices.Clone(judged), func(call porcupine.Operation) bool { return call.Input.(input).key != key })
		if verdict := porcupine.CheckOperationsTimeout(register, of, judgeWithin); verdict != porcupine.Ok {
			return told, len(h.calls) - told, fmt.Errorf("the %d calls on %s are not linearizable: %s\n%s", len(of), key, verdict, table(of))
		}
	}
	return told, len(h.calls) - told, nil
}

// register is one key: its value is the state.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		i, o := in.(input), out.(output)
		switch i.op {
		case put:
			return true, i.value
		case swap:
			if !o.swapped {
				return state != i.expected && state == o.value, state
			}
			return state == i.expected, i.value
		default:
			return o.value == state, state
		}
	},
}

// table shows calls by the time at which they began, in microseconds.
func table(calls []porcupine.Operation) string {
	var lines strings.Builder
	for _, call := range calls {
		fmt.Fprintf(&lines, "%9d to %9d, client %d: %+v, %+v\n", call.Call/1000, call.Return/1000, call.ClientId, call.Input, call.Output)
	}
	return lines.String()
}
