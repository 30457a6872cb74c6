// Package translate makes Envoy's protos from the catalog and the decisions, one file per idea of the
// input. It is pure. It does not validate, encode or version: package snapshot does.
package translate

import "google.golang.org/protobuf/proto"

// Type names an xDS resource type by its usual short name.
type Type string

// The types we make.
const (
	CDS  Type = "cds"
	EDS  Type = "eds"
	LDS  Type = "lds"
	RDS  Type = "rds"
	ECDS Type = "ecds"
	RTDS Type = "rtds"
)

// Types are all types in make-before-break order.
var Types = []Type{CDS, EDS, LDS, RDS, ECDS, RTDS}

// Resource is an unencoded resource.
type Resource struct {
	Type    Type
	Name    string
	Message proto.Message
	// Source is the object it was made from, "HTTPRoute shop/web", the first where there are several.
	Source string
}
