package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"evenkeel.io/controlplane/internal/translate"
)

// Resource is a validated, encoded resource. Immutable.
type Resource struct {
	Type    translate.Type
	Name    string
	Version string // a hash of Bytes, hexadecimal; the same after a restart and on every replica
	Bytes   []byte // the message, in a deterministic encoding
	// Refs are the names of resources that this one points at, by type: a route configuration's
	// clusters, a listener's route configurations, an EDS cluster's load assignment. Sorted.
	Refs map[translate.Type][]string
	// Source is the object behind it, "HTTPRoute shop/web".
	Source string

	entry  []byte // see Delta
	packed int    // where the packed message begins in it
	sum    Sum
}

// newResource takes an encoded message into the form in which it is sent.
func newResource(r translate.Resource, encoded []byte, refs map[translate.Type][]string) *Resource {
	out := &Resource{
		Type: r.Type, Name: r.Name, Version: cache.HashResource(encoded), Refs: refs, Source: r.Source,
	}
	out.entry, out.packed = entry(out.Name, out.Version, r.Type.URL(), encoded)
	out.Bytes = out.entry[len(out.entry)-len(encoded):]
	out.sum = sumOf(out.Name, out.Version)
	return out
}

// Message is what the resource says, decoded anew each time. Kept, the messages of a large mesh would take
// several times the memory of their bytes, and are seldom asked for.
func (r *Resource) Message() proto.Message {
	m, err := messageOf(r.Type)
	if err == nil {
		err = proto.Unmarshal(r.Bytes, m)
	}
	if err != nil {
		panic(fmt.Sprintf("%s %q does not decode: %v", r.Type, r.Name, err)) // it was encoded here
	}
	return m
}

// messageOf is an empty message of a type.
func messageOf(t translate.Type) (proto.Message, error) {
	known, err := protoregistry.GlobalTypes.FindMessageByURL(t.URL())
	if err != nil {
		return nil, err
	}
	return known.New().Interface(), nil
}

// digest is the resource's part of the version of a table.
func (r *Resource) digest() Sum {
	if r.sum == (Sum{}) {
		return sumOf(r.Name, r.Version) // it was not encoded here
	}
	return r.sum
}

// Numbers of fields, as in envoy/service/discovery/v3/discovery.proto and google/protobuf/any.proto.
const (
	fieldResources       = 2 // of both responses
	fieldResourceVersion = 1
	fieldResourceAny     = 2
	fieldResourceName    = 3
	fieldAnyURL          = 1
	fieldAnyValue        = 2
)

// entry is a resource as an element of DeltaDiscoveryResponse.resources, tag and length included. The
// packed message comes last in it, under a field number that happens to be that of
// DiscoveryResponse.resources: its tail from there is the same resource as an element of the other
// response. One copy of the bytes serves both protocols.
func entry(name, version, url string, encoded []byte) (element []byte, packed int) {
	anyLen := field(fieldAnyURL, len(url)) + field(fieldAnyValue, len(encoded))
	length := field(fieldResourceName, len(name)) + field(fieldResourceVersion, len(version)) + field(fieldResourceAny, anyLen)
	element = make([]byte, 0, field(fieldResources, length))
	element = protowire.AppendTag(element, fieldResources, protowire.BytesType)
	element = protowire.AppendVarint(element, uint64(length))
	element = protowire.AppendTag(element, fieldResourceName, protowire.BytesType)
	element = protowire.AppendString(element, name)
	element = protowire.AppendTag(element, fieldResourceVersion, protowire.BytesType)
	element = protowire.AppendString(element, version)
	packed = len(element)
	element = protowire.AppendTag(element, fieldResourceAny, protowire.BytesType)
	element = protowire.AppendVarint(element, uint64(anyLen))
	element = protowire.AppendTag(element, fieldAnyURL, protowire.BytesType)
	element = protowire.AppendString(element, url)
	element = protowire.AppendTag(element, fieldAnyValue, protowire.BytesType)
	return protowire.AppendBytes(element, encoded), packed
}

// field is the length of a field of so many bytes with its tag and length.
func field(number protowire.Number, length int) int {
	return protowire.SizeTag(number) + protowire.SizeBytes(length)
}

// Delta is the resource as an element of DeltaDiscoveryResponse.resources (field 2), encoded. It must
// not be changed.
func (r *Resource) Delta() []byte { return r.entry }

// SotW is the resource as an element of DiscoveryResponse.resources (field 2), encoded. It must not be
// changed.
func (r *Resource) SotW() []byte { return r.entry[r.packed:] }

// Sum is a version of many resources: the sums over them of two halves of a hash of name and version,
// modulo 2^64 each (a multiset hash). Unlike a hash of the whole list it can be moved by what changed
// alone. The zero Sum is of none.
type Sum [2]uint64

func sumOf(name, version string) Sum {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{0})
	h.Write([]byte(version))
	digest := h.Sum(nil)
	return Sum{binary.BigEndian.Uint64(digest), binary.BigEndian.Uint64(digest[8:])}
}

// Add takes a resource into the sum.
func (s *Sum) Add(name, version string) { *s = s.plus(sumOf(name, version)) }

// String is the version. Never "", which a client that has nothing sends: it would be taken to be up to
// date.
func (s Sum) String() string {
	return hex.EncodeToString(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s[0]), s[1]))
}

func (s Sum) plus(o Sum) Sum  { return Sum{s[0] + o[0], s[1] + o[1]} }
func (s Sum) minus(o Sum) Sum { return Sum{s[0] - o[0], s[1] - o[1]} }
