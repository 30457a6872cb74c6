package rlsconfig

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// maxBounds is how many counters with a bound of their own a rule may name. Values that leave parts out
// multiply.
const maxBounds = 1024

// Bound is how much is let in: exactly one of the three is set.
type Bound struct {
	Rate        *v1alpha1.Rate
	Concurrency int32
	Unlimited   bool
}

// Bound is that of the requests with these values of the key (Values, or Form.Values of a descriptor), and
// that of the requests that lack a part for nil.
func (r *Rule) Bound(values []string) Bound {
	if values != nil {
		for _, v := range r.overrides(r.parts()) {
			if v.meets(values) {
				return v.Bound
			}
		}
	}
	return r.bound()
}

func (r *Rule) bound() Bound { return boundOf(r.Limit.Rate, r.Limit.Concurrency, nil) }

func boundOf(rate *v1alpha1.Rate, concurrency *int32, unlimited *bool) Bound {
	switch {
	case unlimited != nil && *unlimited:
		return Bound{Unlimited: true}
	case rate != nil:
		return Bound{Rate: rate}
	case concurrency != nil:
		return Bound{Concurrency: *concurrency}
	}
	return Bound{Unlimited: true} // nothing that Compile lets pass
}

// Override is a ValueLimit: a value for each part of the key, in its order, as the part's entry has it; nil stands
// for any.
type Override struct {
	Match []*string
	Bound Bound
}

func (v Override) meets(values []string) bool {
	for i, want := range v.Match {
		if want != nil && (i >= len(values) || values[i] != *want) {
			return false
		}
	}
	return true
}

// Overrides are the bounds of some values, of which the first that matches is taken.
func (r *Rule) Overrides() []Override { return r.overrides(r.parts()) }

func (r *Rule) overrides(parts []part) []Override {
	var out []Override
	for _, v := range r.Limit.Values {
		if match, err := resolve(parts, v.Match); err == nil {
			out = append(out, Override{match, boundOf(v.Rate, v.Concurrency, v.Unlimited)})
		}
	}
	return out
}

func (r *Rule) checkValues(parts []part) error {
	var problems []error
	seen := map[string]int{}
	for i, v := range r.Limit.Values {
		at := fmt.Sprintf("values[%d]", i)
		fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(at+format, args...)) }
		match, err := resolve(parts, v.Match)
		if err != nil {
			fail(".match: %w", err)
			continue
		}
		if len(v.Match) == 0 {
			fail(".match: is empty; expected a value of a part of the key")
		}
		set, named := "", 0
		for j, value := range match {
			if value == nil {
				set += "\x00*"
				continue
			}
			named++
			set += "\x00=" + *value
			switch {
			case *value == "":
				fail(".match: the value of %s is empty", parts[j].text)
			case strings.HasSuffix(*value, "*"):
				fail(".match: %q ends with a star, which the reference rate limit service takes for any ending; name each value", *value)
			}
		}
		if first, ok := seen[set]; ok {
			fail(".match: is that of values[%d], which is taken first", first)
		}
		seen[set] = i
		bounds := 0
		for _, set := range []bool{v.Rate != nil, v.Concurrency != nil, v.Unlimited != nil && *v.Unlimited} {
			if set {
				bounds++
			}
		}
		switch {
		case bounds != 1 || v.Rate != nil && r.Limit.Rate == nil || v.Concurrency != nil && r.Limit.Concurrency == nil:
			fail(": expected exactly one of unlimited and, as the limit itself has it, rate or concurrency")
		case v.Rate != nil && r.Scope() == v1alpha1.ScopeFleet && !portable(*v.Rate):
			fail(".rate.%s", unportable(*v.Rate))
		}
		if r.Scope() == v1alpha1.ScopeProxy && named < len(parts) {
			fail(".match: leaves out a part of the key, and with scope Proxy an Envoy could not tell which bucket is meant; expected a value of each of %s", textsOf(parts))
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	n := 0
	for range r.counters(parts) {
		if n++; n > maxBounds {
			return fmt.Errorf("values: more than %d combinations of values have a bound of their own; expected values that leave out fewer parts of the key", maxBounds)
		}
	}
	return nil
}

// counters yields the combinations of exact values (nil: any other) of the parts that tell the bounds apart,
// and the bound of each: a way through a tree in which, at each level, an exact value is preferred to any
// other and is not come back from, as the reference service looks.
func (r *Rule) counters(parts []part) func(yield func(values []*string, bound Bound) bool) {
	all := r.overrides(parts)
	return func(yield func([]*string, Bound) bool) {
		var walk func(done []*string, candidates []Override) bool
		walk = func(done []*string, candidates []Override) bool {
			i := len(done)
			if i == len(parts) {
				if len(candidates) > 0 {
					return yield(done, candidates[0].Bound)
				}
				return yield(done, r.bound())
			}
			exact := map[string]bool{}
			for _, c := range candidates {
				if c.Match[i] != nil {
					exact[*c.Match[i]] = true
				}
			}
			next := func(value *string) bool {
				var still []Override
				for _, c := range candidates {
					if c.Match[i] == nil || value != nil && *c.Match[i] == *value {
						still = append(still, c)
					}
				}
				return walk(append(slices.Clip(done), value), still)
			}
			for _, value := range sortedKeys(exact) {
				if !next(&value) {
					return false
				}
			}
			return next(nil)
		}
		walk(nil, all)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
