// Judges histories of clients with porcupine, a checker of linearizability that shares no code with
// the simulator's. `cargo sim histories DIR` writes them, each with the simulator's own verdict.
//
//	judge DIR
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/anishathalye/porcupine"
)

// limit bounds the search of one history; without an end it says nothing.
const limit = 5 * time.Second

type file struct {
	Verdict    string      `json:"verdict"`
	Operations []operation `json:"operations"`
}

type operation struct {
	Client   uint64  `json:"client"`
	Called   int64   `json:"called"`
	Returned int64   `json:"returned"`
	Request  request `json:"request"`
	// Reply is missing where the client never learned the outcome.
	Reply *reply `json:"reply"`
}

func main() {
	paths, err := filepath.Glob(filepath.Join(os.Args[1], "*.json"))
	if err != nil || len(paths) == 0 {
		fmt.Println("no histories in", os.Args[1], err)
		os.Exit(1)
	}
	counts := map[string]int{}
	for _, path := range paths {
		found := judge(path)
		counts[found]++
		if found != "consistent as told" && found != "violated as told" {
			fmt.Println(path, found)
		}
	}
	fmt.Println(counts)
	wrong := counts["consistent, told otherwise"] + counts["violated, told otherwise"]
	fmt.Printf("%d passed, %d failed\n", len(paths)-wrong, wrong)
	if wrong > 0 {
		os.Exit(1)
	}
}

func judge(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var history file
	if err := json.Unmarshal(text, &history); err != nil {
		return err.Error()
	}
	told := func(verdict string) string {
		if history.Verdict == verdict {
			return verdict + " as told"
		}
		return verdict + ", told otherwise"
	}
	switch porcupine.CheckOperationsTimeout(model().ToModel(), operations(history), limit) {
	case porcupine.Ok:
		return told("consistent")
	case porcupine.Illegal:
		return told("violated")
	default:
		return "no end within the limit"
	}
}

// operations gives those of a history to porcupine. One of unknown outcome may take effect at any
// time after its call, or never.
func operations(history file) []porcupine.Operation {
	var last int64
	for _, o := range history.Operations {
		last = max(last, o.Returned)
	}
	var out []porcupine.Operation
	for _, o := range history.Operations {
		returned := o.Returned
		if o.Reply == nil {
			returned = last + 1
		}
		out = append(out, porcupine.Operation{
			// A client that gave a call up goes on with the next one.
			ClientId: len(out), Call: o.Called, Return: returned, Input: o.Request, Output: o.Reply,
		})
	}
	return out
}

func model() *porcupine.NondeterministicModel {
	return &porcupine.NondeterministicModel{
		Init: func() []interface{} { return []interface{}{store{Revision: 1, Keys: []keyValue{}}} },
		Step: func(state, input, output interface{}) []interface{} {
			before := state.(store)
			after, answer := before.apply(input.(request))
			seen := output.(*reply)
			if seen == nil {
				if after.Revision == before.Revision {
					return []interface{}{before}
				}
				return []interface{}{before, after}
			}
			input.(request).overlook(&answer, seen.Answer)
			told := reply{Revision: after.Revision, Answer: answer}
			if seen.equals(told) {
				return []interface{}{after}
			}
			return nil
		},
		Equal: func(a, b interface{}) bool { return reflect.DeepEqual(a, b) },
	}
}
