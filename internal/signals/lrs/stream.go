package lrs

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// unasked is the interval of who is to report nothing any more: a stream that was asked once sends its
// node at every interval, and cannot be told to stop.
const unasked = time.Hour

// ServeLoadReports serves the load report stream of one node until the node or ctx ends it, or authorize
// does not let it report for the fleet that it names. Of the server's codec it asks that a message with the method UnmarshalWire([]byte) decodes itself; what it
// gives to SendMsg is a proto.Message.
//
// Nobody is asked for reports before a policy wants some: the stream is then held in silence. It is asked
// anew whenever the Services change that its fleet is to report.
func (m *Manager) ServeLoadReports(ctx context.Context, stream grpc.ServerStream, authorize func(fleet string) error) error {
	r := &reporter{replan: make(chan struct{}, 1)}
	ended := make(chan func() error, 1)
	go func() { ended <- m.receive(r, stream, authorize) }()
	defer m.leave(r)
	var asked *loadv3.LoadStatsResponse
	for {
		select {
		case <-ctx.Done():
			return nil
		case end := <-ended:
			return end()
		case <-r.replan:
			ask := m.ask(r)
			if asked == nil && ask.LoadReportingInterval.AsDuration() == unasked || same(asked, ask) {
				continue
			}
			if err := stream.SendMsg(ask); err != nil {
				return err
			}
			asked = ask
		}
	}
}

// receive takes messages in until there are no more, and returns how the stream's own goroutine is to
// end: a panic is raised there, where who serves the stream contains it.
func (m *Manager) receive(r *reporter, stream grpc.ServerStream, authorize func(fleet string) error) (end func() error) {
	defer func() {
		if cause := recover(); cause != nil {
			stack := debug.Stack()
			end = func() error { panic(fmt.Sprintf("%v, in the receiving goroutine\n%s", cause, stack)) }
		}
	}()
	msg := message{node: &node{}}
	for first := true; ; first = false {
		if err := stream.RecvMsg(&msg); err != nil {
			return func() error { return nil } // the client is gone
		}
		if first {
			if msg.refused != nil || msg.node.id == "" {
				return func() error {
					return status.Error(codes.InvalidArgument, "the first message of a load report stream must carry a node with an id")
				}
			}
			if err := authorize(msg.node.fleet); err != nil {
				return func() error { return err }
			}
			m.join(r, *msg.node)
			msg.node = nil
		}
		m.take(r, &msg, time.Now())
	}
}

// ask is what a reporter is to be asked for now.
func (m *Manager) ask(r *reporter) *loadv3.LoadStatsResponse {
	m.mu.Lock()
	defer m.mu.Unlock()
	ask := &loadv3.LoadStatsResponse{ReportEndpointGranularity: true, LoadReportingInterval: durationpb.New(m.options.Interval)}
	for name, s := range m.services {
		if slices.Contains(s.spec.Fleets, r.node.fleet) {
			ask.Clusters = append(ask.Clusters, name)
		}
	}
	r.asked = len(ask.Clusters) > 0
	switch {
	case !r.asked:
		ask.LoadReportingInterval = durationpb.New(unasked)
	case r.node.sendsAllOf():
		ask.Clusters, ask.SendAllClusters = nil, true
	default:
		slices.Sort(ask.Clusters)
	}
	return ask
}

func same(a, b *loadv3.LoadStatsResponse) bool {
	return a != nil && a.SendAllClusters == b.SendAllClusters && slices.Equal(a.Clusters, b.Clusters) &&
		a.LoadReportingInterval.AsDuration() == b.LoadReportingInterval.AsDuration()
}

// sendsAllOf says whether a node is asked for all its clusters: one that has clusters of its own calls
// them as it likes, and only its reports tell which Service each is.
func (n node) sendsAllOf() bool { return n.sendsAll && strings.HasPrefix(n.fleet, "eds:") }
