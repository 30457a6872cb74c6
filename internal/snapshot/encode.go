package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"evenkeel.io/controlplane/internal/translate"
)

// maxReason bounds what a Refusal quotes of a validator: a client may see it, and a validator may
// quote what it refuses.
const maxReason = 512

// Refusal is the error of Encode: this resource would be refused by a client, or do harm in one.
type Refusal struct {
	Type   translate.Type
	Name   string
	Source string // the object behind it
	Reason string // which field, what is wrong with it, what was expected
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s %q of %s is not valid: %s", r.Type, r.Name, r.Source, r.Reason)
}

// Encode validates a resource and encodes it. An error is a *Refusal.
//
// The version is the hash that go-control-plane makes of the same bytes, in full: its delta responses
// carry that one, and a client that reconnects is told apart from one with other content by it.
func Encode(r translate.Resource) (*Resource, error) { return EncodeAfter(nil, r) }

// EncodeAfter is Encode for a resource that may be the same as before: if it encodes to before's
// bytes, it is before, validated already. before may be nil.
func EncodeAfter(before *Resource, r translate.Resource) (*Resource, error) {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.Message)
	if err != nil {
		return nil, refuse(r, err)
	}
	if before != nil && before.Type == r.Type && before.Name == r.Name &&
		before.Source == r.Source && bytes.Equal(before.Bytes, encoded) {
		return before, nil
	}
	return validated(r, encoded)
}

// validated makes the Resource of a message and its encoding, if it may be served.
func validated(r translate.Resource, encoded []byte) (*Resource, error) {
	if err := errors.Join(checkRules(r), validateAnys(r.Message), validateAll(r.Message)); err != nil {
		return nil, refuse(r, err)
	}
	refs, err := refsOf(r.Message)
	if err != nil {
		return nil, refuse(r, err)
	}
	return newResource(r, encoded, refs), nil
}

// EncodeUnchecked is Encode without validation, for what somebody else answers for.
func EncodeUnchecked(r translate.Resource) (*Resource, error) {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.Message)
	if err != nil {
		return nil, refuse(r, err)
	}
	refs, err := refsOf(r.Message)
	if err != nil {
		return nil, refuse(r, err)
	}
	return newResource(r, encoded, refs), nil
}

func refuse(r translate.Resource, err error) *Refusal {
	reason := strings.ToValidUTF8(err.Error(), "�")
	reason = strings.ReplaceAll(reason, "\n", "; ")
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "..."
	}
	return &Refusal{Type: r.Type, Name: r.Name, Source: r.Source, Reason: reason}
}

// validateAll runs the rules that Envoy's own API definitions carry (protoc-gen-validate).
func validateAll(m proto.Message) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		return v.ValidateAll()
	}
	return nil
}

// validateAnys does the same for the messages packed within m, at any depth, which generated
// validators do not open. Load assignments have none and are long, so they are not walked.
func validateAnys(m proto.Message) error {
	if _, ok := m.(*endpointv3.ClusterLoadAssignment); ok {
		return nil
	}
	return eachAny(m.ProtoReflect(), func(packed *anypb.Any) error {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			return fmt.Errorf("%s: %w", packed.GetTypeUrl(), err)
		}
		return errors.Join(validateAll(inner), validateAnys(inner))
	})
}

// eachAny visits the packed messages within m, m too, but does not look into them.
func eachAny(m protoreflect.Message, visit func(*anypb.Any) error) error {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		return visit(packed)
	}
	if c, ok := m.Interface().(*routev3.FilterConfig); ok && c.GetConfig().GetTypeUrl() == "" {
		return nil // has a filter work on a route, and configures nothing
	}
	var err error
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap() && field.MapValue().Message() != nil:
			value.Map().Range(func(_ protoreflect.MapKey, item protoreflect.Value) bool {
				err = eachAny(item.Message(), visit)
				return err == nil
			})
		case field.IsList() && field.Message() != nil:
			for i := 0; err == nil && i < value.List().Len(); i++ {
				err = eachAny(value.List().Get(i).Message(), visit)
			}
		case field.Message() != nil && !field.IsMap():
			err = eachAny(value.Message(), visit)
		}
		return err == nil
	})
	return err
}
