package translate

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	customresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	localresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
	envoymatcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
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

	// serviceTimeout bounds how long a request waits for the rate limit service.
	serviceTimeout = 20 * time.Millisecond

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
func askService(f *catalog.Fleet, onError v1alpha1.OnError) proto.Message {
	if !slices.ContainsFunc(f.Rules, func(r *rlsconfig.Rule) bool { return r.Scope() == v1alpha1.ScopeFleet && r.OnError == onError }) {
		return nil
	}
	m := &ratelimitv3.RateLimit{
		Domain:                         f.Name,
		Timeout:                        durationpb.New(serviceTimeout),
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

// customResponse is the content of the slot that gives replies another status than the 429 that Envoys give,
// nil if no limit asks for one. The service says which in a header; a reply to gRPC has its own status and is
// left alone.
func customResponse(rules []*rlsconfig.Rule) proto.Message {
	var statuses []int32
	for _, r := range rules {
		if status, ok := otherStatus(r); ok {
			statuses = append(statuses, status)
		}
	}
	if statuses == nil {
		return nil
	}
	slices.Sort(statuses)
	list := &xdsmatcherv3.Matcher_MatcherList{}
	for _, status := range slices.Compact(statuses) {
		list.Matchers = append(list.Matchers, &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{
			Predicate: both(
				equals("status", &envoymatcherv3.HttpResponseStatusCodeMatchInput{}, strconv.Itoa(tooManyRequests)),
				equals("reply", &envoymatcherv3.HttpResponseHeaderMatchInput{HeaderName: rlsconfig.ReplyHeader}, strconv.Itoa(int(status))),
			),
			OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
				Name:        fmt.Sprintf("status-%d", status),
				TypedConfig: anyOf(&localresponsev3.LocalResponsePolicy{StatusCode: wrapperspb.UInt32(uint32(status))}),
			}}},
		})
	}
	return &customresponsev3.CustomResponse{CustomResponseMatcher: &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: list},
	}}
}

// otherStatus is the status of the rule's reply, if it is not the one that Envoys give by themselves.
func otherStatus(r *rlsconfig.Rule) (int32, bool) {
	if r.Scope() != v1alpha1.ScopeFleet || r.Limit.Reply == nil || r.Limit.Reply.Status == nil {
		return 0, false
	}
	status := *r.Limit.Reply.Status
	return status, status != tooManyRequests
}

func both(predicates ...*xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: predicates},
	}}
}

func equals(name string, input proto.Message, value string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: anyOf(input)},
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &xdsmatcherv3.StringMatcher{
				MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: value},
			}},
		},
	}}
}
