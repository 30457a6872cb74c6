package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/weights"
	"evenkeel.io/controlplane/internal/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(kubetest.Main(m)) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// one is a Replica with a port, and what it sends up.
type one struct {
	*Replica
	t      *testing.T
	events chan Event
	server *grpc.Server
	stop   func() // Run, as SIGTERM does

	mu      sync.Mutex
	proxies []xds.Proxy
	loads   []signals.Summary            // not taken yet
	merged  map[string][]signals.Summary // by replica
}

// Made, TakeSummaries, MergeSummaries and ForgetReplica make it Loads of its own.
func (o *one) TakeSummaries() []signals.Summary {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.loads
	o.loads = nil
	return taken
}

// Made is never told: here summaries wait for the next turn.
func (o *one) Made() <-chan struct{} { return nil }

func (o *one) MergeSummaries(replica string, summaries []signals.Summary) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.merged[replica] = append(o.merged[replica], summaries...)
}

func (o *one) ForgetReplica(replica string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.merged, replica)
}

// heardOf is what it was told by a replica.
func (o *one) heardOf(replica string) (summaries []signals.Summary, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	summaries, known = o.merged[replica]
	return slices.Clone(summaries), known
}

// newOne makes a replica that listens and does nothing else.
func newOne(t *testing.T, name string, change func(*Options)) *one {
	t.Helper()
	o := &one{t: t, events: make(chan Event, 1000), merged: map[string][]signals.Summary{}}
	port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1")) // where it may listen again
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{
		Self: Peer{Name: name, Address: lis.Addr().String()}, Log: slog.New(slog.DiscardHandler),
		Proxies: func() []xds.Proxy { o.mu.Lock(); defer o.mu.Unlock(); return slices.Clone(o.proxies) },
		Nacks:   func() []xds.Nack { return nil },
		Loads:   o,
	}
	if change != nil {
		change(&opts)
	}
	o.Replica = New(opts)
	o.serve(lis)
	t.Cleanup(func() { o.server.Stop() })
	return o
}

// have gives it other proxies.
func (o *one) have(proxies ...xds.Proxy) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.proxies = proxies
}

func (o *one) serve(lis net.Listener) {
	server := grpc.NewServer()
	o.Register(server)
	o.server = server
	go func() { _ = server.Serve(lis) }()
}

// start runs the parts of Run that need no Lease, in a role of the test's choice.
func (o *one) start(role Role) {
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { o.pass(ctx, o.events) })
	o.become(ctx, role)
	parts.Go(func() { o.follow(ctx) })
	o.t.Cleanup(func() { o.retire(); cancel(); parts.Wait() })
}

// next waits for an event that suits.
func (o *one) next(what string, suits func(Event) bool) Event {
	o.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e := <-o.events:
			if suits(e) {
				return e
			}
		case <-deadline:
			o.t.Fatalf("%s: never", what)
		}
	}
}

func joined(e Event) bool { return e.Joined }
func leads(e Event) bool  { return e.Role != nil && e.Role.Leads }
func complete(e Event) bool {
	return e.Told != nil && e.Told.All != nil
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("%s: never", what)
		}
	}
}

func cart(weight uint32) *Service {
	return &Service{At: time.Now(), Cause: "urgent", State: weights.MachineState{
		Service: "shop/cart:80", Endpoints: []weights.EndpointState{{Address: "10.0.0.1:80", Weight: weight}},
	}}
}

// TestTheStream: down go states, in any number, up go proxies; a cut heals.
func TestTheStream(t *testing.T) {
	leader := newOne(t, "a", nil)
	leader.start(Role{Leads: true, Leader: leader.opts.Self})
	follower := newOne(t, "b", nil)
	follower.have(xds.Proxy{Node: "envoy-1", Fleet: "shop/edge", Workers: 2, ConnectedAt: time.Now()}, xds.Proxy{Node: "envoy-2", Fleet: "shop/edge", ConnectedAt: time.Now()})
	follower.start(Role{Leader: leader.opts.Self})

	leader.next("a follower joins", joined)
	frozen := true
	leader.Tell(&Told{Services: map[string]*Service{"shop/cart:80": cart(700)}, Frozen: &frozen, All: []string{"shop/cart:80"}})
	told := follower.next("everything is told", complete).Told
	if s := told.Services["shop/cart:80"]; s == nil || s.State.Endpoints[0].Weight != 700 || s.Cause != "urgent" || told.Frozen == nil || !*told.Frozen {
		t.Errorf("told %+v", told)
	}
	if !follower.mayLead(time.Now()) {
		t.Error("a replica that heard everything may not lead")
	}
	until(t, "the leader knows the follower's proxies", func() bool {
		return leader.ProxiesElsewhere("shop/edge", 0) == 2 && leader.WorkersElsewhere("shop/edge") == 2+assumedWorkers
	})
	if all := leader.Proxies(); len(all) != 2 || all[0].Node != "envoy-1" || all[0].Replica != "b" {
		t.Errorf("proxies %+v", all)
	}
	leader.have(xds.Proxy{Node: "envoy-3", Fleet: "shop/edge", ConnectedAt: time.Now()})
	until(t, "the follower knows that the leader has one", func() bool { return follower.ProxiesElsewhere("shop/edge", 2) == 1 })
	follower.have(follower.proxies[1:]...)
	until(t, "a proxy that left is forgotten", func() bool { return leader.ProxiesElsewhere("shop/edge", 0) == 1 })

	// The port is gone for a while.
	address := leader.opts.Self.Address
	leader.server.Stop()
	until(t, "a follower that is not heard is forgotten, with its proxies", func() bool {
		return leader.ProxiesElsewhere("shop/edge", 0) == 0 && leader.Followers() == 0
	})
	lis, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	leader.serve(lis)
	leader.next("the follower joins again", joined)
	leader.Tell(&Told{Services: map[string]*Service{"shop/cart:80": cart(800)}, All: []string{"shop/cart:80"}})
	if s := follower.next("everything is told again", complete).Told.Services["shop/cart:80"]; s.State.Endpoints[0].Weight != 800 {
		t.Errorf("told %+v", s)
	}

	// A leader that follows now sends its followers away.
	leader.become(t.Context(), Role{Leader: Peer{Name: "c"}})
	until(t, "its followers are sent away", func() bool { return leader.Followers() == 0 })
}

// TestAcceptsGoDown: what the leader is told to accept its followers accept too, each Service once; a follower that
// is not told in time has room for so many.
func TestAcceptsGoDown(t *testing.T) {
	accepted := make(chan string, 10)
	leader := newOne(t, "a", nil)
	other := newOne(t, "b", func(o *Options) {
		o.Accept = func(_ context.Context, by, service string) error {
			accepted <- by + " accepts " + service
			return errors.New("nothing is held") // which is only said
		}
	})
	if err := leader.Accept("ops", "shop/cart"); err != nil {
		t.Errorf("nobody follows: %v", err)
	}
	leader.start(Role{Leads: true, Leader: leader.opts.Self})
	other.start(Role{Leader: leader.opts.Self})
	leader.next("it joins", joined)
	for _, service := range []string{"shop/pay", ""} {
		if err := leader.Accept("ops", service); err != nil {
			t.Error(err)
		}
		select {
		case got := <-accepted:
			if got != "ops accepts "+service {
				t.Errorf("the follower is told that %s, want %q", got, service)
			}
		case <-time.After(patience):
			t.Fatal("the follower is not told")
		}
	}

	busy := newOne(t, "d", nil)
	busy.start(Role{Leads: true, Leader: busy.opts.Self})
	slow := &follower{self: Peer{Name: "c"}, wake: make(chan struct{}, 1), ended: make(chan error, 1)}
	if err := busy.enlist(slow); err != nil {
		t.Fatal(err)
	}
	for i := range maxAccepts + 1 {
		err := busy.Accept("ops", strings.Repeat("x", i))
		if (err != nil) != (i == maxAccepts) || err != nil && !strings.Contains(err.Error(), "c cannot be told") {
			t.Errorf("%d wait: %v", i, err)
		}
	}
	if err := busy.Accept("ops", "x"); err != nil {
		t.Errorf("it waits already: %v", err)
	}
	if n := testutil.ToFloat64(busy.metrics.untold); n != 1 {
		t.Errorf("%v are counted, want 1", n)
	}
	_, rest, more := slow.pending.next()
	if !more || len(rest.Accepts) != maxAccepts {
		t.Errorf("%d are told: %v", len(rest.Accepts), more)
	}
	busy.strike(slow)
}

func TestWhoMayAct(t *testing.T) {
	for role, want := range map[Role]string{
		{Leads: true, Leader: Peer{Name: "a", Address: "10.0.0.1:18000"}}: "",
		{Leader: Peer{Name: "a", Address: "10.0.0.1:18000"}}:              "a (10.0.0.1:18000): ask the admin port of a",
		{}: "no replica is known to lead",
	} {
		switch err := role.MayAct(); {
		case (err == nil) != (want == ""), err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%+v: %v, want %q", role, err, want)
		}
	}
}

// TestLoadsGoUp: summaries of load reports reach the leader, which knows who takes endpoints elsewhere; a
// follower that has gone is forgotten, and one that has come again on another stream is not.
func TestLoadsGoUp(t *testing.T) {
	leader, other := newOne(t, "a", nil), newOne(t, "b", nil)
	leader.start(Role{Leads: true, Leader: leader.opts.Self})
	takes := map[translate.Type]xds.TypeState{translate.EDS: {State: xds.Synced}}
	other.have(
		xds.Proxy{Node: "envoy-1", Fleet: "shop/edge", Types: takes}, xds.Proxy{Node: "envoy-2", Fleet: "eds:shop", Types: takes},
		xds.Proxy{Node: "envoy-3", Fleet: "shop/edge", Types: map[translate.Type]xds.TypeState{translate.EDS: {State: xds.NotSubscribed}}},
		xds.Proxy{Node: "envoy-4", Fleet: "bank/edge", Types: takes},
	)
	large := signals.Summary{Service: "shop/large:80", Endpoints: make([]signals.SummaryOf, 15_000)}
	other.loads = []signals.Summary{{Service: "shop/cart:80", Subscribers: 2, Silent: 1, Interval: time.Second, Age: time.Millisecond}, large, large}
	for i := range large.Endpoints {
		large.Endpoints[i] = signals.SummaryOf{Address: "[2001:db8:1234:1234:1234:1234:1234:1234]:65535", Done: 123456.789012345, Failed: 1.0 / 3, Issued: 1e9 / 3, InFlight: 7}
	}
	other.start(Role{Leader: leader.opts.Self})
	until(t, "the leader has the summaries", func() bool {
		got, _ := leader.heardOf("b")
		return len(got) == 3 && got[0].Silent == 1 && got[0].Interval == time.Second && got[0].Age == time.Millisecond && len(got[2].Endpoints) == 15_000
	})
	until(t, "the leader knows who takes endpoints", func() bool {
		return leader.SubscribersElsewhere([]string{"shop/edge", "eds:shop"})["b"] == 2
	})
	if messages := inMessages([]signals.Summary{{}, large, large, {}}); len(messages) != 2 || len(messages[0].Loads) != 2 {
		t.Errorf("%d messages, want no more than 20,000 endpoints in each", len(messages))
	}
	other.retire()
	other.become(t.Context(), Role{Leads: true})
	until(t, "what a follower told that has gone is forgotten", func() bool {
		_, known := leader.heardOf("b")
		return !known
	})

	leader.MergeSummaries("c", []signals.Summary{{}})
	var streams []*follower
	for range 2 {
		f := &follower{self: Peer{Name: "c"}, ended: make(chan error, 1)}
		if err := leader.enlist(f); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, f)
	}
	for i, f := range streams {
		leader.strike(f)
		if _, known := leader.heardOf("c"); known != (i == 0) {
			t.Errorf("after the end of stream %d of 2 what it told is known: %v", i+1, known)
		}
	}
}

// TestOnlyReplicasFollow, and only one that leads is followed.
func TestOnlyReplicasFollow(t *testing.T) {
	for what, test := range map[string]struct {
		authorize func(context.Context) error
		leads     bool
		want      codes.Code
	}{
		"no replica":    {func(context.Context) error { return status.Error(codes.PermissionDenied, "an Envoy") }, true, codes.PermissionDenied},
		"not leading":   {nil, false, codes.FailedPrecondition},
		"a bad message": {nil, true, codes.FailedPrecondition},
	} {
		t.Run(what, func(t *testing.T) {
			o := newOne(t, "a", func(o *Options) { o.Authorize = test.authorize })
			o.start(Role{Leads: test.leads})
			hello := `{"version": 1, "self": {"Name": "b"}}`
			if what == "a bad message" {
				hello = "no JSON"
			}
			if got := status.Code(raw(t, o.opts.Self.Address, hello).RecvMsg(&wrapperspb.BytesValue{})); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// raw is a stream with a first message, of a replica that a test plays.
func raw(t *testing.T, address, hello string) grpc.ClientStream {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s, err := conn.NewStream(ctx, &description.Streams[0], "/"+serviceName+"/"+methodName)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SendMsg(wrapperspb.String(hello)) // which is encoded as bytes are; what is wrong with it RecvMsg says
	return s
}

// TestWhatIsNotUnderstoodIsLeftAside: a replica of another version may say anything; what can be read counts.
func TestWhatIsNotUnderstoodIsLeftAside(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: methodName, ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			for _, message := range []string{
				`no JSON`,
				`{"version": 2, "services": {"shop/cart:80": {"at": "2026-03-01T12:00:00Z", "state": {"service": "shop/cart:80"}}}, "complete": true}`,
				`{"version": 1, "later": 7, "services": {"shop/pay:80": {"at": 7}, "shop/cart:80": {"at": "2026-03-01T12:00:00Z", "state": {"service": "shop/cart:80"}}}}`,
				`{"version": 1, "complete": true, "all": ["shop/cart:80"]}`,
			} {
				if err := s.SendMsg(wrapperspb.String(message)); err != nil {
					return err
				}
			}
			for {
				if err := s.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
					return nil
				}
			}
		},
	}}}, nil)
	go func() { _ = server.Serve(lis) }()
	t.Cleanup(server.Stop)
	follower := newOne(t, "b", nil)
	follower.start(Role{Leader: Peer{Name: "a", Address: lis.Addr().String()}})
	first := follower.next("what is understood is told", func(e Event) bool { return e.Told != nil }).Told
	if len(first.Services) != 1 || first.Services["shop/cart:80"] == nil || first.All != nil {
		t.Errorf("told %+v, want the one service of the third message", first)
	}
	follower.next("what follows is told", complete)
	if n := testutil.ToFloat64(follower.metrics.unread); n != 3 {
		t.Errorf("%v counted, want two messages and a service", n)
	}
}

// TestASlowFollowerHoldsTheNewest: what it was not sent yet is replaced, and goes out in batches.
func TestASlowFollowerHoldsTheNewest(t *testing.T) {
	var p pending
	big := func(at int) *Service {
		return &Service{At: time.Unix(int64(at), 0), State: weights.MachineState{Endpoints: make([]weights.EndpointState, batchBytes/endpointBytes/2+1)}}
	}
	p.add(&Told{Services: map[string]*Service{"a": big(1), "b": big(1), "c": big(1)}, All: []string{"a", "b", "c"}})
	p.add(&Told{Services: map[string]*Service{"a": big(2)}, Gone: []string{"c"}})
	batches := 0
	seen := map[string]int64{}
	for {
		services, rest, more := p.next()
		if !more {
			break
		}
		batches++
		for name, s := range services {
			seen[name] = s.At.Unix()
		}
		if rest.Complete != (batches == 2) {
			t.Errorf("batch %d: complete is %v", batches, rest.Complete)
		}
	}
	if batches != 2 || len(seen) != 2 || seen["a"] != 2 || seen["b"] != 1 {
		t.Errorf("%d batches with %v", batches, seen)
	}
}

// inCluster takes part in an election on a real API server.
func inCluster(t *testing.T, server *kubetest.APIServer, namespace, name string) *one {
	t.Helper()
	leases, err := coordinationv1.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	o := newOne(t, name, func(o *Options) {
		o.Leases, o.Namespace, o.Duration = leases, namespace, 3*time.Second
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx, o.events) }()
	o.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(o.stop)
	return o
}

// TestTheLeaseSaysWhoLeads: one leads, the other hears it; one that is stopped gives the Lease up first, and
// whoever heard it leads.
func TestTheLeaseSaysWhoLeads(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a := inCluster(t, server, namespace, "a")
	a.next("the first leads", leads)
	b := inCluster(t, server, namespace, "b")
	if e := b.next("the second follows", func(e Event) bool { return e.Role != nil }); e.Role.Leads || e.Role.Leader != a.opts.Self {
		t.Fatalf("the second is told %+v", e.Role)
	}
	a.next("it joins", joined)
	a.Tell(&Told{All: []string{}})
	b.next("it is told everything", complete)

	lease, err := a.opts.Leases.Leases(namespace).Get(t.Context(), "evenkeel", metav1.GetOptions{})
	if err != nil || !strings.HasPrefix(*lease.Spec.HolderIdentity, "a_"+a.opts.Self.Address+"_") {
		t.Errorf("the Lease is held by %v, %v", lease, err)
	}
	a.stop()
	select {
	case <-a.Released():
	default:
		t.Error("Run is over and the Lease is not given up")
	}
	lease, err = a.opts.Leases.Leases(namespace).Get(t.Context(), "evenkeel", metav1.GetOptions{})
	if err != nil || strings.HasPrefix(*lease.Spec.HolderIdentity, "a_") {
		t.Errorf("the Lease is still held by %v, %v", lease, err)
	}
	b.next("the other leads", leads)
	if a.Role().Leads {
		t.Error("one that gave the Lease up leads")
	}
}

// TestOneThatJustStartedDoesNotTakeOver: the Lease is nobody's, and who heard the weights comes first.
func TestOneThatJustStartedDoesNotTakeOver(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a := inCluster(t, server, namespace, "a")
	a.next("the first leads", leads)
	a.stop()
	began := time.Now()
	b := inCluster(t, server, namespace, "b")
	b.next("it leads in the end", leads)
	if waited := time.Since(began); waited < Patience {
		t.Errorf("it led after %v, having heard nobody", waited)
	}
}

// TestALeaderLeadsWithoutAnAPIServer: nobody can take over, and weights are still to move.
func TestALeaderLeadsWithoutAnAPIServer(t *testing.T) {
	server := kubetest.Start(t)
	a := inCluster(t, server, "default", "a")
	a.next("it leads", leads)
	server.Stop()
	select {
	case e := <-a.events:
		t.Errorf("told %+v while the API server was away", e)
	case <-time.After(2 * a.opts.Duration): // long past the Lease
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := inCluster(t, server, "default", "b")
	if e := b.next("it holds the Lease again", func(e Event) bool { return e.Role != nil }); e.Role.Leader.Name != "a" {
		t.Errorf("told %+v", e.Role)
	}
}

func TestHolders(t *testing.T) {
	self := Peer{Name: "evenkeel-0", Address: "[fd00::1]:18000"}
	if got := peerOf(self.identity()); got != self {
		t.Errorf("%+v", got)
	}
	if one, other := self.identity(), self.identity(); one == other {
		t.Error("two processes of one name have one identity")
	}
	if got := peerOf("somebody else"); got.Address != "" || got.Name != "somebody else" {
		t.Errorf("%+v", got)
	}
}

// FuzzMessages: whatever a peer says, it is decoded or refused.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"version": 1, "services": {"a": {}}, "all": ["a"]}`))
	f.Add([]byte(`{"version": 1, "proxies": {"a": {"Types": {"cds": {}}}}, "gone": ["a"], "nacks": []}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := New(Options{})
		var d down
		var u up
		if unread, err := r.take(said(body), &d, &d.Version); err != nil || unread == nil && d.Version != protocol {
			t.Errorf("%v, %v of %+v", unread, err, d)
		}
		if unread, err := r.take(said(body), &u, &u.Version); err == nil && unread == nil {
			follower := &follower{proxies: map[string]xds.Proxy{}}
			r.heed(follower, u)
			if len(follower.proxies) > maxProxies {
				t.Error("too many proxies are kept")
			}
		}
	})
}

// said is a stream on which one message comes.
type said []byte

func (s said) SendMsg(any) error { return io.ErrClosedPipe }
func (s said) RecvMsg(m any) error {
	frame, ok := m.(*wrapperspb.BytesValue)
	if !ok {
		return errors.New("not a frame")
	}
	frame.Value = s
	return nil
}
