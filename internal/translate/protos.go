package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// anyOf packs a message with map entries in a fixed order, so that equal configurations are equal
// bytes. A message that cannot be packed (a string that is not UTF-8) becomes an empty one of its
// type, which snapshot refuses by name.
func anyOf(m proto.Message) *anypb.Any {
	packed := &anypb.Any{}
	if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())}
	}
	return packed
}

// overADS is a resource fetched from the stream that the configuration came from. A zero timeout is
// Envoy's default, 15 s.
func overADS(initialFetchTimeout time.Duration) *corev3.ConfigSource {
	source := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
	if initialFetchTimeout > 0 {
		source.InitialFetchTimeout = durationpb.New(initialFetchTimeout)
	}
	return source
}

func regexMatcher(expression string) *matcherv3.RegexMatcher {
	return &matcherv3.RegexMatcher{Regex: expression}
}
