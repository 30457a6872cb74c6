package source

import (
	"cmp"
	"strconv"
	"strings"
)

// String is the problem on one line, `file:line: Kind namespace/name: field: message`, as compilers
// write theirs. Parts that are not known are left out.
func (p Problem) String() string {
	var b strings.Builder
	part := func(text string) {
		if text != "" {
			b.WriteString(text)
			b.WriteString(": ")
		}
	}
	place := p.File
	if p.Line > 0 {
		place += ":" + strconv.Itoa(p.Line)
	}
	part(place)
	if p.Object != (Ref{}) {
		part(p.Object.String())
	}
	part(p.Field)
	b.WriteString(p.Message)
	return b.String()
}

// ComparePlaces orders problems by place, then object, field and message.
func ComparePlaces(a, b Problem) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File),
		cmp.Compare(a.Line, b.Line),
		a.Object.Compare(b.Object),
		cmp.Compare(a.Field, b.Field),
		cmp.Compare(a.Message, b.Message),
	)
}

// Compare orders references by kind, namespace and name.
func (r Ref) Compare(other Ref) int {
	return cmp.Or(
		cmp.Compare(r.Kind, other.Kind),
		cmp.Compare(r.Namespace, other.Namespace),
		cmp.Compare(r.Name, other.Name),
	)
}
