package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"

	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/xds"
)

const (
	// reportEvery is how often a leader is told of proxies.
	reportEvery = time.Second
	// comeBack is after what time a follower tries to reach its leader again, and half of it more at random.
	comeBack = time.Second
)

// follow keeps a stream to whoever leads, until ctx is done.
func (r *Replica) follow(ctx context.Context) {
	failing := ""
	for ctx.Err() == nil {
		role, changed := r.watch()
		if role.Leads || role.Leader.Address == "" || role.Leader == r.opts.Self { // as it was before it was killed
			failing = ""
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		following, cancel := context.WithCancel(ctx)
		stop := make(chan struct{})
		go func() { // ends with the attempt
			defer close(stop)
			select {
			case <-changed:
				cancel()
			case <-following.Done():
			}
		}()
		err := r.subscribe(following, role.Leader)
		cancelled := following.Err() != nil
		cancel()
		<-stop
		if cancelled {
			continue
		}
		if err.Error() != failing {
			failing = err.Error()
			r.opts.Log.Warn("the leader is not heard; the weights stay as they are until it is, or another leads", "leader", role.Leader, "error", err)
		}
		select {
		case <-time.After(comeBack + rand.N(comeBack/2)):
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// subscribe hears a leader until the stream ends, and returns why.
func (r *Replica) subscribe(ctx context.Context, leader Peer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var transport credentials.TransportCredentials = insecure.NewCredentials()
	if r.opts.Credentials != nil {
		transport = r.opts.Credentials
	}
	conn, err := grpc.NewClient("passthrough:///"+leader.Address, grpc.WithTransportCredentials(transport),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return err
	}
	defer conn.Close()
	s, err := conn.NewStream(ctx, &description.Streams[0], "/"+serviceName+"/"+methodName,
		grpc.UseCompressor(gzip.Name), grpc.MaxCallRecvMsgSize(maxDown))
	if err != nil {
		return err
	}
	reported := make(chan error, 1)
	go func() {
		defer cancel()
		reported <- r.report(ctx, s)
	}()
	err = r.hear(ctx, s, leader)
	cancel()
	if failed := <-reported; failed != nil && ctx.Err() == nil {
		return failed
	}
	return err
}

// hear takes what the leader tells until the stream ends.
func (r *Replica) hear(ctx context.Context, s stream, leader Peer) error {
	defer func() {
		r.metrics.hearing.Set(0)
		r.mu.Lock()
		r.hearing, r.asked = false, nil
		r.mu.Unlock()
	}()
	said := false
	complain := func(what string, err error) {
		if !said {
			said = true
			r.opts.Log.Warn("the leader says something that is not understood; what it said before is kept", "leader", leader, "what", what, "error", err)
		}
	}
	for {
		var message down
		unread, err := r.take(s, &message, &message.Version)
		if err != nil {
			return err
		}
		if unread != nil {
			complain("a message", unread)
			continue
		}
		r.mu.Lock()
		if message.Nodes != nil {
			r.nodes = message.Nodes
		}
		if message.Cases != nil {
			r.asked = message.Cases
		}
		r.mu.Unlock()
		if message.Verdicts != nil {
			r.opts.Refusals().Rule(message.Verdicts)
		}
		for service, by := range message.Accepts {
			if err := r.opts.Accept(ctx, by, service); err != nil {
				r.opts.Log.Info("what an operator accepted is not held here", "by", by, "service", service, "error", err)
			}
		}
		told := &Told{Services: make(map[string]*Service, len(message.Services)), Gone: message.Gone, Frozen: message.Frozen, Generations: message.Generations, Pins: message.Pins, RateLimits: message.RateLimits, Factors: message.Factors}
		for name, raw := range message.Services {
			service := &Service{}
			if err := json.Unmarshal(raw, service); err != nil {
				r.metrics.unread.Inc()
				complain(name, err)
				continue
			}
			told.Services[name] = service
		}
		if message.Complete {
			told.All = append([]string{}, message.All...)
		}
		r.send(ctx, Event{Told: told})
		if message.Complete {
			r.mu.Lock()
			r.heard, r.hearing = true, true
			r.mu.Unlock()
			r.metrics.hearing.Set(1)
			r.opts.Log.Info("the leader is heard", "leader", leader, "services", len(message.All))
		}
	}
}

// report tells the leader of this replica's proxies, and what they report, until the stream ends. Summaries
// that are lost with it are followed by newer ones.
func (r *Replica) report(ctx context.Context, s grpc.ClientStream) error {
	told := map[string]xds.Proxy{}
	var nacks []xds.Nack
	var votes []xds.Vote
	again := time.NewTicker(reportEvery)
	defer again.Stop()
	news := func() []up {
		messages := r.news(told, &nacks)
		r.mu.Lock()
		asked := r.asked
		r.mu.Unlock()
		if next := r.opts.Refusals().Votes(asked); next != nil && (votes == nil || !reflect.DeepEqual(next, votes)) {
			votes, messages = next, append(messages, up{Votes: next})
		}
		return messages
	}
	for messages := append(news(), up{}); ; { // an empty one, so that the leader learns who follows
		for _, m := range append(messages, inMessages(r.opts.Loads.TakeSummaries())...) {
			m.Version, m.Self = protocol, r.opts.Self
			if err := r.put(s, m); err != nil {
				return fmt.Errorf("telling of proxies and load: %w", err)
			}
		}
		messages = nil
		select {
		case <-again.C:
			messages = news()
		case <-r.opts.Loads.Made(): // the leader's turn is soon
		case <-ctx.Done():
			return errors.Join(s.CloseSend())
		}
	}
}

// news is what the leader has not been told, in messages of a size that it takes. told and nacks become what
// it was.
func (r *Replica) news(told map[string]xds.Proxy, nacks *[]xds.Nack) []up {
	const most = 500 // a proxy takes up to 5 KB, mostly of a refusal
	now := map[string]xds.Proxy{}
	for _, p := range r.opts.Proxies() {
		now[fmt.Sprintf("%s %s %d", p.Fleet, p.Node, p.ConnectedAt.UnixNano())] = p
	}
	var messages []up
	next := up{Proxies: map[string]xds.Proxy{}}
	flush := func() {
		if len(next.Proxies)+len(next.Gone)+len(next.Nacks) > 0 {
			messages = append(messages, next)
			next = up{Proxies: map[string]xds.Proxy{}}
		}
	}
	for key := range told {
		if _, ok := now[key]; !ok {
			next.Gone = append(next.Gone, key)
		}
	}
	for key, p := range now {
		if was, ok := told[key]; ok && reflect.DeepEqual(was, p) {
			continue
		}
		if next.Proxies[key] = p; len(next.Proxies) >= most {
			flush()
		}
	}
	flush()
	if all := newest(r.opts.Nacks()); len(all) > 0 && !reflect.DeepEqual(all, *nacks) {
		*nacks, next.Nacks = all, all
		flush()
	}
	clear(told)
	maps.Copy(told, now)
	return messages
}

// inMessages puts summaries into messages of a size that the leader takes.
func inMessages(loads []signals.Summary) []up {
	const most, each = 20_000, 10 // endpoints of up to 100 bytes; a summary without one counts as ten
	var messages []up
	room := 0
	for _, s := range loads {
		if room -= each + len(s.Endpoints); room < 0 || len(messages) == 0 {
			messages = append(messages, up{})
			room = most - each - len(s.Endpoints)
		}
		next := &messages[len(messages)-1]
		next.Loads = append(next.Loads, s)
	}
	return messages
}
