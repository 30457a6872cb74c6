package translate

import (
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

const (
	// BucketSlots is how many filters share the limits of scope Proxy. A policy's are all in one, found by a
	// hash of its name: a change of it fills the buckets of that one anew and leaves the others alone.
	BucketSlots = 8

	tooManyRequests = 429
)

// SlotOf is the slot, an ECDS resource, in which a rule is kept or asked about.
func SlotOf(r *rlsconfig.Rule) string {
	switch {
	case r.Scope() == v1alpha1.ScopeProxy:
		return bucketFilter(bucketSlot(r))
	case r.OnError == v1alpha1.OnErrorDeny:
		return DenyFilter
	}
	return AllowFilter
}

// BucketStatistics begins the names of the counters that each Envoy has of a rule of scope Proxy. The rules of a slot
// have them in common.
func BucketStatistics(r *rlsconfig.Rule) string {
	return bucketFilter(bucketSlot(r)) + ".http_local_rate_limit"
}

func bucketFilter(slot int) string { return BucketFilter + strconv.Itoa(slot) }

// bucketSlot is where the limits of scope Proxy of a rule's policy are, 1 to BucketSlots.
func bucketSlot(r *rlsconfig.Rule) int {
	h := fnv.New32a()
	h.Write([]byte(r.Policy()))
	return int(h.Sum32()%BucketSlots) + 1
}

// limitList is the fleet's rules, for the rate limit service.
func limitList(f *catalog.Fleet) Resource {
	list, err := rlsconfig.Encode(f.Rules)
	if err != nil { // no rule that Compile lets pass
		list = &structpb.Struct{Fields: map[string]*structpb.Value{"error": structpb.NewStringValue(err.Error())}}
	}
	return Resource{Type: Limits, Name: f.Name, Source: f.Object.String(), Message: list}
}

// RateLimitService is the load assignment of the rate limit service: where the Envoys of every fleet ask, each
// "<ip>:<port>". There may be none.
func RateLimitService(addresses []string) Resource {
	s := &catalog.Service{Name: RLSCluster}
	for _, a := range slices.Sorted(slices.Values(addresses)) {
		s.Endpoints = append(s.Endpoints, catalog.Endpoint{Address: a, Base: 1, Multiplier: 1})
	}
	r := Assignment(s, nil)
	r.Source = "serve --rls-address"
	return r
}

// buckets is the content of a bucket slot, nil if no rule is in it. What no bucket is meant for is not limited.
func buckets(rules []*rlsconfig.Rule, slot int) proto.Message {
	var descriptors []*commonv3.LocalRateLimitDescriptor
	for _, r := range rules {
		if r.Scope() == v1alpha1.ScopeProxy && bucketSlot(r) == slot {
			descriptors = append(descriptors, r.Buckets()...)
		}
	}
	if descriptors == nil {
		return nil
	}
	return &localratelimitv3.LocalRateLimit{
		StatPrefix:                      bucketFilter(slot),
		Stage:                           uint32(slot),
		TokenBucket:                     rlsconfig.BottomlessBucket(),
		AlwaysConsumeDefaultTokenBucket: wrapperspb.Bool(false),
		Descriptors:                     descriptors,
		MaxDynamicDescriptors:           wrapperspb.UInt32(rlsconfig.MaxDynamicBuckets),
		FilterEnabled:                   always(),
		FilterEnforced:                  always(),
		EnableXRatelimitHeaders:         commonv3.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03,
		EnableRetryAfterHeader:          true,
		RateLimitedAsResourceExhausted:  true,
	}
}

func always() *corev3.RuntimeFractionalPercent {
	return &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
}

// askService is the content of the slot of the limits with that OnError, nil if there are none.
func askService(f *catalog.Fleet, onError v1alpha1.OnError, timeout time.Duration) proto.Message {
	if !slices.ContainsFunc(f.Rules, func(r *rlsconfig.Rule) bool { return r.Scope() == v1alpha1.ScopeFleet && r.OnError == onError }) {
		return nil
	}
	m := &ratelimitv3.RateLimit{
		Domain:                         f.Name,
		Timeout:                        durationpb.New(timeout),
		StatPrefix:                     strings.ToLower(string(onError)),
		EnableXRatelimitHeaders:        ratelimitv3.RateLimit_DRAFT_VERSION_03,
		EnableRetryAfterHeader:         true,
		RateLimitedAsResourceExhausted: true,
		RateLimitService: &rlsv3.RateLimitServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: RLSCluster},
			}},
		},
	}
	if onError == v1alpha1.OnErrorDeny {
		m.FailureModeDeny = true
		m.StatusOnError = &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable}
	}
	return m
}

// replyStatus is the content of the slot that gives replies another status than the 429 that Envoys give, nil if
// no limit asks for one. The service says which in a header, which is not for the client; gRPC has statuses of its
// own. It is a script because Envoy has nothing else that changes a status and keeps headers and body: a
// HeaderMutation must not, and a CustomResponse begins the reply anew.
func replyStatus(rules []*rlsconfig.Rule) proto.Message {
	if !slices.ContainsFunc(rules, func(r *rlsconfig.Rule) bool { _, other := otherStatus(r); return other }) {
		return nil
	}
	return &luav3.Lua{DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: replyScript}}}
}

const replyScript = `function envoy_on_response(response)
  local headers = response:headers()
  local status = headers:get("` + rlsconfig.ReplyHeader + `")
  if status == nil then return end
  headers:remove("` + rlsconfig.ReplyHeader + `")
  if headers:get(":status") == "429" and string.match(status, "^[45]%d%d$") then
    headers:replace(":status", status)
  end
end
`

// otherStatus is the status of the rule's reply, if it is not the one that Envoys give by themselves.
func otherStatus(r *rlsconfig.Rule) (int32, bool) {
	if r.Scope() != v1alpha1.ScopeFleet || r.Limit.Reply == nil || r.Limit.Reply.Status == nil {
		return 0, false
	}
	status := *r.Limit.Reply.Status
	return status, status != tooManyRequests
}
