package rlsconfig

import (
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Form is a form that descriptors of a rule have.
type Form struct {
	// Entries in order; an empty value stands for any.
	Entries []Entry
	// Missing says that the form is that of requests that lack a part of the key.
	Missing bool

	from, to int // the entries of the parts
}

// Entry is an entry of a descriptor.
type Entry struct{ Key, Value string }

// Forms are the forms that the descriptors of the rule have: that of requests with a value of each part of the
// key, and under Missing: Global, where requests may lack one, that of those that do.
func (r *Rule) Forms() []Form {
	selectors, err := r.selectors()
	if err != nil {
		return nil
	}
	before := []Entry{{EntryRule, r.ID}}
	if r.hasWhen(selectors) {
		before = append(before, Entry{EntryWhen, "true"})
	}
	if r.cel() != "" {
		before = append(before, Entry{EntryCEL, "true"})
	}
	form := func(missing bool, key ...Entry) Form {
		f := Form{Missing: missing, from: len(before), to: len(before)}
		if !missing {
			f.to += len(key)
		}
		f.Entries = append(append(f.Entries, before...), key...)
		if r.Limit.Concurrency != nil {
			f.Entries = append(f.Entries, Entry{Key: EntryLease})
		}
		return f
	}
	parts := r.parts()
	keys := make([]Entry, len(parts))
	for i, p := range parts {
		keys[i].Key = p.entry()
	}
	forms := []Form{form(false, keys...)}
	if r.missing() == v1alpha1.MissingGlobal && r.canMiss(parts) {
		forms = append(forms, form(true, Entry{EntryMissing, MissingGlobal}))
	}
	return forms
}

// Matches says whether a descriptor has the form.
func (f Form) Matches(entries []*commonv3.RateLimitDescriptor_Entry) bool {
	if len(entries) != len(f.Entries) {
		return false
	}
	for i, e := range f.Entries {
		if entries[i].GetKey() != e.Key || e.Value != "" && entries[i].GetValue() != e.Value {
			return false
		}
	}
	return true
}

// Values are the values of the parts of the key in a descriptor that Matches, in the order of the key; nil if
// the form is that of requests that lack one. An empty key has none, which is not nil.
func (f Form) Values(entries []*commonv3.RateLimitDescriptor_Entry) []string {
	if f.Missing {
		return nil
	}
	values := make([]string, 0, f.to-f.from)
	for _, e := range entries[f.from:f.to] {
		values = append(values, e.GetValue())
	}
	return values
}
