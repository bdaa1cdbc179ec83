package main

import (
	"reflect"
	"sort"
)

// The messages are as the simulator writes them: an enum is an object with one field.

type keyValue struct {
	Key            string `json:"key"`
	Value          string `json:"value"`
	CreateRevision int64  `json:"create_revision"`
	ModRevision    int64  `json:"mod_revision"`
	Version        int64  `json:"version"`
	Lease          int64  `json:"lease"`
}

type span struct {
	Key string `json:"key"`
	End string `json:"end"`
}

type request struct {
	Range *struct {
		Span       span  `json:"span"`
		Revision   int64 `json:"revision"`
		Limit      int64 `json:"limit"`
		CountOnly  bool  `json:"count_only"`
		KeysOnly   bool  `json:"keys_only"`
		Descending bool  `json:"descending"`
	}
	Put *struct {
		Key    string `json:"key"`
		Value  string `json:"value"`
		PrevKv bool   `json:"prev_kv"`
	}
	Delete *struct {
		Span   span `json:"span"`
		PrevKv bool `json:"prev_kv"`
	}
	Txn *struct {
		Compares []compare `json:"compares"`
		Success  []request `json:"success"`
		Failure  []request `json:"failure"`
	}
}

type compare struct {
	Key      string `json:"key"`
	Relation string `json:"relation"`
	Operand  struct {
		Version *int64
		Create  *int64
		Mod     *int64
		Value   *string
	} `json:"operand"`
}

type answer struct {
	Range *struct {
		Kvs   []keyValue `json:"kvs"`
		Count int64      `json:"count"`
		More  bool       `json:"more"`
	}
	Put *struct {
		Prev *keyValue `json:"prev"`
	}
	Delete *struct {
		Deleted int64      `json:"deleted"`
		Prevs   []keyValue `json:"prevs"`
	}
	Txn *struct {
		Succeeded bool     `json:"succeeded"`
		Answers   []answer `json:"answers"`
	}
}

type reply struct {
	Revision int64  `json:"revision"`
	Answer   answer `json:"answer"`
}

func (r *reply) equals(other reply) bool { return reflect.DeepEqual(*r, other) }

// store is the state between two operations; it is never changed in place.
type store struct {
	Revision int64
	// Keys are in order.
	Keys []keyValue
}

func (s span) contains(key string) bool {
	switch s.End {
	case "":
		return key == s.Key
	case "\x00":
		return key >= s.Key
	default:
		return key >= s.Key && key < s.End
	}
}

func (s store) find(key string) (int, bool) {
	at := sort.Search(len(s.Keys), func(i int) bool { return s.Keys[i].Key >= key })
	return at, at < len(s.Keys) && s.Keys[at].Key == key
}

func (s store) get(key string) keyValue {
	if at, ok := s.find(key); ok {
		return s.Keys[at]
	}
	return keyValue{Key: key}
}

// overlook takes over what was seen of the past by a range within a transaction: this judge knows
// only the present.
func (r request) overlook(told *answer, seen answer) {
	if r.Txn == nil || seen.Txn == nil || len(seen.Txn.Answers) != len(told.Txn.Answers) {
		return
	}
	branch := r.Txn.Failure
	if told.Txn.Succeeded {
		branch = r.Txn.Success
	}
	for i, part := range branch {
		if part.Range != nil && part.Range.Revision != 0 {
			told.Txn.Answers[i] = seen.Txn.Answers[i]
		}
	}
}

// apply carries a request out and gives the state after it.
func (s store) apply(r request) (store, answer) {
	next := s.Revision + 1
	keys, told, wrote := s.run(r, next)
	after := store{Revision: s.Revision, Keys: keys}
	if wrote {
		after.Revision = next
	}
	return after, told
}

// run carries out what may be part of a transaction, whose writes share a revision.
func (s store) run(r request, revision int64) ([]keyValue, answer, bool) {
	var told answer
	switch {
	case r.Range != nil:
		told.Range = newOf(told.Range)
		told.Range.Kvs = []keyValue{}
		for _, kv := range s.Keys {
			if r.Range.Span.contains(kv.Key) {
				told.Range.Count++
				if r.Range.KeysOnly {
					kv.Value = ""
				}
				told.Range.Kvs = append(told.Range.Kvs, kv)
			}
		}
		kvs := told.Range.Kvs
		if r.Range.Descending {
			for i, j := 0, len(kvs)-1; i < j; i, j = i+1, j-1 {
				kvs[i], kvs[j] = kvs[j], kvs[i]
			}
		}
		if r.Range.CountOnly {
			kvs = []keyValue{}
		} else if r.Range.Limit > 0 && int64(len(kvs)) > r.Range.Limit {
			kvs, told.Range.More = kvs[:r.Range.Limit], true
		}
		told.Range.Kvs = kvs
		return s.Keys, told, false
	case r.Put != nil:
		told.Put = newOf(told.Put)
		at, found := s.find(r.Put.Key)
		kv := keyValue{
			Key: r.Put.Key, Value: r.Put.Value, CreateRevision: revision, ModRevision: revision,
			Version: 1,
		}
		keys := append([]keyValue{}, s.Keys[:at]...)
		rest := s.Keys[at:]
		if found {
			old := s.Keys[at]
			kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
			if r.Put.PrevKv {
				told.Put.Prev = &old
			}
			rest = rest[1:]
		}
		return append(append(keys, kv), rest...), told, true
	case r.Delete != nil:
		told.Delete = newOf(told.Delete)
		told.Delete.Prevs = []keyValue{}
		keys := []keyValue{}
		for _, kv := range s.Keys {
			if !r.Delete.Span.contains(kv.Key) {
				keys = append(keys, kv)
				continue
			}
			told.Delete.Deleted++
			if r.Delete.PrevKv {
				told.Delete.Prevs = append(told.Delete.Prevs, kv)
			}
		}
		return keys, told, told.Delete.Deleted > 0
	default:
		told.Txn = newOf(told.Txn)
		told.Txn.Answers = []answer{}
		told.Txn.Succeeded = true
		for _, c := range r.Txn.Compares {
			told.Txn.Succeeded = told.Txn.Succeeded && c.holds(s.get(c.Key))
		}
		branch := r.Txn.Failure
		if told.Txn.Succeeded {
			branch = r.Txn.Success
		}
		within, wrote := s, false
		for _, part := range branch {
			keys, partTold, partWrote := within.run(part, revision)
			within.Keys, wrote = keys, wrote || partWrote
			told.Txn.Answers = append(told.Txn.Answers, partTold)
		}
		return within.Keys, told, wrote
	}
}

func newOf[T any](*T) *T { return new(T) }

// holds compares with a key, which has zeros for what it lacks where there is none.
func (c compare) holds(kv keyValue) bool {
	order := func(a, b int64) int {
		switch {
		case a < b:
			return -1
		case a > b:
			return 1
		default:
			return 0
		}
	}
	var is int
	switch {
	case c.Operand.Version != nil:
		is = order(kv.Version, *c.Operand.Version)
	case c.Operand.Create != nil:
		is = order(kv.CreateRevision, *c.Operand.Create)
	case c.Operand.Mod != nil:
		is = order(kv.ModRevision, *c.Operand.Mod)
	default:
		if kv.Version == 0 {
			// A value that is not there equals nothing.
			return false
		}
		switch {
		case kv.Value < *c.Operand.Value:
			is = -1
		case kv.Value > *c.Operand.Value:
			is = 1
		}
	}
	switch c.Relation {
	case "Equal":
		return is == 0
	case "Greater":
		return is > 0
	case "Less":
		return is < 0
	default:
		return is != 0
	}
}
