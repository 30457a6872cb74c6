package translate

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Empty is the resource that says of a name that there is nothing behind it, for the types whose clients
// need to be told so by a resource: a listener waits for its routes until it has some, if only none.
func Empty(t Type, name string) (Resource, bool) {
	switch t {
	case RDS:
		return Resource{Type: t, Name: name, Message: &routev3.RouteConfiguration{Name: name}}, true
	case RTDS:
		return Resource{Type: t, Name: name, Message: &runtimev3.Runtime{Name: name, Layer: &structpb.Struct{}}}, true
	}
	return Resource{}, false
}
