package v1alpha1

import (
	"maps"
	"slices"
)

// The generator of deep copies knows no maps of an alias, and the schema of a map's values stands with one:
// HeaderMatch and Text are aliases so that in Go they are plain strings.

// DeepCopyInto copies in into out, which must not be nil.
func (in *When) DeepCopyInto(out *When) {
	*out = When{
		Methods: slices.Clone(in.Methods), Paths: slices.Clone(in.Paths), Headers: maps.Clone(in.Headers),
		Backends: slices.Clone(in.Backends), CEL: copied(in.CEL),
	}
}

// DeepCopy is a copy that shares nothing with in.
func (in *When) DeepCopy() *When {
	if in == nil {
		return nil
	}
	out := new(When)
	in.DeepCopyInto(out)
	return out
}

// DeepCopyInto copies in into out, which must not be nil.
func (in *ValueLimit) DeepCopyInto(out *ValueLimit) {
	*out = ValueLimit{
		Match: maps.Clone(in.Match), Rate: in.Rate.DeepCopy(), Concurrency: copied(in.Concurrency), Unlimited: copied(in.Unlimited),
	}
}

// DeepCopy is a copy that shares nothing with in.
func (in *ValueLimit) DeepCopy() *ValueLimit {
	if in == nil {
		return nil
	}
	out := new(ValueLimit)
	in.DeepCopyInto(out)
	return out
}

// DeepCopyInto copies in into out, which must not be nil.
func (in *Reply) DeepCopyInto(out *Reply) {
	*out = Reply{Status: copied(in.Status), Headers: maps.Clone(in.Headers), Body: copied(in.Body)}
}

// DeepCopy is a copy that shares nothing with in.
func (in *Reply) DeepCopy() *Reply {
	if in == nil {
		return nil
	}
	out := new(Reply)
	in.DeepCopyInto(out)
	return out
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	return new(*p)
}
