package snapshot

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/translate"
)

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestLimitsThatEnvoyRefuses: one of them costs a whole route configuration, or all filter slots.
func TestLimitsThatEnvoyRefuses(t *testing.T) {
	slot := func(m proto.Message) translate.Resource {
		return translate.Resource{Type: translate.ECDS, Name: "a", Message: &corev3.TypedExtensionConfig{Name: "a", TypedConfig: packed(t, m)}}
	}
	every := func(d time.Duration) *typev3.TokenBucket {
		return &typev3.TokenBucket{MaxTokens: 1, FillInterval: durationpb.New(d)}
	}
	descriptor := func(d time.Duration) *commonv3.LocalRateLimitDescriptor {
		return &commonv3.LocalRateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "rule", Value: "a"}}, TokenBucket: every(d)}
	}
	local := func(d ...*commonv3.LocalRateLimitDescriptor) translate.Resource {
		return slot(&localratelimitv3.LocalRateLimit{StatPrefix: "a", TokenBucket: every(time.Second), Descriptors: d})
	}
	routes := func(r *routev3.Route) translate.Resource {
		r.Match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
		return translate.Resource{Type: translate.RDS, Name: "a", Message: &routev3.RouteConfiguration{Name: "a", VirtualHosts: []*routev3.VirtualHost{{Name: "a", Domains: []string{"*"}, Routes: []*routev3.Route{r}}}}}
	}
	action := func(limits ...*routev3.RateLimit) translate.Resource {
		return routes(&routev3.Route{Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "c"}, RateLimits: limits,
		}}})
	}
	filter := func(limit *routev3.RateLimit) translate.Resource {
		return routes(&routev3.Route{
			Action:               &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
			TypedPerFilterConfig: map[string]*anypb.Any{"f": packed(t, &ratelimitv3.RateLimitPerRoute{RateLimits: []*routev3.RateLimit{limit}})},
		})
	}
	by := func(a *routev3.RateLimit_Action) *routev3.RateLimit {
		return &routev3.RateLimit{Actions: []*routev3.RateLimit_Action{a}}
	}
	header := func(name string) *routev3.RateLimit {
		return by(&routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: name, DescriptorKey: "k"}}})
	}
	expression := func(text string) *routev3.RateLimit {
		return by(&routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{Extension: &corev3.TypedExtensionConfig{
			Name: "e", TypedConfig: packed(t, &exprv3.Descriptor{DescriptorKey: "k", ExprSpecifier: &exprv3.Descriptor_Text{Text: text}}),
		}}})
	}
	staged, done := header("a"), header("a")
	staged.Stage, done.ApplyOnStreamDone = wrapperspb.UInt32(1), true
	for name, c := range map[string]struct {
		resource translate.Resource
		want     string
	}{
		"two buckets of the same":      {local(descriptor(time.Second), descriptor(2*time.Second)), `descriptors[1]: "rule"="a" stands twice`},
		"between two ticks":            {local(descriptor(1500 * time.Millisecond)), "descriptors[0].token_bucket.fill_interval: is 1.5s"},
		"no tick":                      {slot(&localratelimitv3.LocalRateLimit{StatPrefix: "a"}), "token_bucket.fill_interval: is 0s"},
		"nobody to ask":                {slot(&ratelimitv3.RateLimit{Domain: "d"}), "rate_limit_service"},
		"an empty slot":                {translate.Resource{Type: translate.ECDS, Name: "a", Message: &corev3.TypedExtensionConfig{Name: "a", TypedConfig: &anypb.Any{}}}, "typed_config: is empty"},
		"no header":                    {action(header("a b")), `rate_limits[0].actions[0]: header "a b"`},
		"no pseudo-header":             {filter(header(":status")), `typed_per_filter_config[f].rate_limits[0].actions[0]: header ":status"`},
		"no expression":                {filter(expression("request.host ==")), `CEL expression "request.host =="`},
		"an attribute that is none":    {filter(expression("request.hosts")), "CEL expression"},
		"the end of a stream":          {action(done), "rate_limits[0]: says what only a filter's own"},
		"a stage of a filter's own":    {filter(staged), "stage: has no meaning"},
		"a body that is too long":      {routes(&routev3.Route{Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 403, Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: strings.Repeat("a", 4097)}}}}}), "direct_response.body: has 4097 bytes"},
		"rules that cannot be read":    {translate.Resource{Type: translate.Limits, Name: "a", Message: &structpb.Struct{Fields: map[string]*structpb.Value{"rules": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("x")}})}}}, "rules[0]"},
		"a filter that is not a thing": {routes(&routev3.Route{Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}}, TypedPerFilterConfig: map[string]*anypb.Any{"f": {}}}), "typed_per_filter_config[f]: is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Encode(c.resource); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	for name, r := range map[string]translate.Resource{
		"buckets": local(descriptor(2 * time.Second)), "a header": action(header(":method")), "an expression": filter(expression("[true][(request.host == 'a' // b\n) ? 0 : 1]")),
		"a filter that is enabled": routes(&routev3.Route{
			Action:               &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
			TypedPerFilterConfig: map[string]*anypb.Any{"f": packed(t, &routev3.FilterConfig{Config: &anypb.Any{}})},
		}),
	} {
		if _, err := Encode(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
