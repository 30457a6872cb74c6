package catalog

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"evenkeel.io/controlplane/internal/source"
)

// policy is an object that says something of others, which its targetRefs name.
type policy interface {
	comparable
	metav1.Object
	Validate() field.ErrorList
}

// target is what a policy is attached to.
type target struct {
	Kind, Namespace, Name string
	Section               string // a rule of an HTTPRoute, "" for the whole
}

func (t target) name() types.NamespacedName {
	return types.NamespacedName{Namespace: t.Namespace, Name: t.Name}
}

func (t target) ref() source.Ref {
	return source.Ref{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name}
}

func (t target) String() string {
	if t.Section == "" {
		return t.ref().String()
	}
	return "rule " + t.Section + " of " + t.ref().String()
}

// admitted are the policies of a kind, by name.
type admitted[P policy] struct {
	inForce map[types.NamespacedName]P        // the last accepted version of each
	refused map[types.NamespacedName]*refusal // why, of those whose present version is refused
}

// admit reads the policies of a kind. One that is refused stays in force as it was.
func admit[P policy](was, objects map[types.NamespacedName]P, check func(P) *refusal) admitted[P] {
	a := admitted[P]{inForce: map[types.NamespacedName]P{}, refused: map[types.NamespacedName]*refusal{}}
	for name, object := range objects {
		why := check(object)
		if why == nil {
			a.inForce[name] = object
			continue
		}
		a.refused[name] = why
		if kept, ok := was[name]; ok {
			a.inForce[name] = kept
		}
	}
	return a
}

// validate says what of the policy cannot be, in itself.
func validate[P policy](object P) *refusal {
	problems := object.Validate()
	if len(problems) == 0 {
		return nil
	}
	message := problems[0].ErrorBody()
	if len(problems) > 1 {
		message += fmt.Sprintf(" (and %d more)", len(problems)-1)
	}
	return refuse(ReasonInvalid, problems[0].Field, "%s", message)
}

// claim gives each of what the policies in force ask for to the oldest that asks.
func claim[K comparable, P policy](a admitted[P], asks func(P) iter.Seq[K]) map[K]P {
	held := map[K]P{}
	for _, policy := range slices.SortedFunc(maps.Values(a.inForce), func(a, b P) int { return older(a, b) }) {
		for k := range asks(policy) {
			if _, taken := held[k]; !taken {
				held[k] = policy
			}
		}
	}
	return held
}

// judge gives a verdict per target of a policy, or one alone where it names none. missing says why there is
// no such target, and say what more there is to say where there is one.
func (a admitted[P]) judge(object P, kind string, targets []target,
	missing func(field string, t target) *refusal, say func(field string, t target, v *Verdict)) (verdicts []Verdict) {
	ref := source.Ref{Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName()}
	refused := a.refused[nameOf(object)]
	_, kept := a.inForce[nameOf(object)]
	if len(targets) == 0 {
		return []Verdict{{Object: ref, Accepted: refused.conditionKept(kept, noEffect), ResolvedRefs: resolved()}}
	}
	for i, t := range targets {
		v := Verdict{Object: ref, Parent: t.ref(), Section: t.Section, Accepted: accepted(), ResolvedRefs: resolved()}
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		if refused != nil {
			v.Accepted = refused.conditionKept(kept, noEffect)
		} else if why := missing(field, t); why != nil {
			v.Accepted = why.condition()
		} else {
			say(field, t, &v)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}
