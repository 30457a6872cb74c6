package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// request describes a request of a tenant, as an Envoy would.
func request(tenant int) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{Domain: domain, Descriptors: []*commonv3.RateLimitDescriptor{
		descriptor(tenantRule, fmt.Sprint(tenant)), descriptor(allRule, ""),
	}}
}

// errNoAnswer says that the service did not answer in time, by its own judgement. Those calls are counted apart.
var errNoAnswer = errors.New("no answer")

// ask asks once. A request that is not admitted, or of which not both limits were counted, is an error: then
// another thing is measured than it seems.
func ask(ctx context.Context, client rlsv3.RateLimitServiceClient, req *rlsv3.RateLimitRequest) error {
	answer, err := client.ShouldRateLimit(ctx, req)
	if status.Code(err) == codes.Unavailable {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if err != nil {
		return err
	}
	if answer.GetOverallCode() != rlsv3.RateLimitResponse_OK {
		return fmt.Errorf("a request was answered with %s, expected OK", answer.GetOverallCode())
	}
	for i, s := range answer.GetStatuses() {
		if s.GetCurrentLimit().GetRequestsPerUnit() == 0 {
			return fmt.Errorf("descriptor %d of a request was not counted", i)
		}
	}
	return nil
}

// callers runs so many at a time, each with a connection and tenants of its own choice, and gives the first
// error of any.
func callers(n int, call func(caller int, random *rand.Rand) error) error {
	var wait sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		wait.Go(func() { errs <- call(i, rand.New(rand.NewPCG(uint64(i), 1))) })
	}
	wait.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// flatOut has all callers ask as fast as they are answered. calls are those with an answer.
func (a *arm) flatOut(ctx context.Context, s settings) (calls, unanswered int, took time.Duration, err error) {
	requests := make([]*rlsv3.RateLimitRequest, s.tenants)
	for i := range requests {
		requests[i] = request(i)
	}
	counts, misses := make([]int, s.callers), make([]int, s.callers)
	began := time.Now()
	err = callers(s.callers, func(i int, random *rand.Rand) error {
		for time.Since(began) < s.period {
			switch err := ask(ctx, a.clients[i%len(a.clients)], requests[random.IntN(len(requests))]); {
			case errors.Is(err, errNoAnswer):
				misses[i]++
			case err != nil:
				return err
			default:
				counts[i]++
			}
		}
		return nil
	})
	for i := range counts {
		calls, unanswered = calls+counts[i], unanswered+misses[i]
	}
	return calls, unanswered, time.Since(began), err
}

// paced has calls come as requests do, at random times that do not depend on answers: latencies count from
// those times.
func (a *arm) paced(ctx context.Context, s settings, seed uint64) ([]time.Duration, error) {
	random := rand.New(rand.NewPCG(seed, 2))
	var wait sync.WaitGroup
	var mu sync.Mutex
	var latencies []time.Duration
	var failed error
	began := time.Now()
	for at := time.Duration(0); ; {
		at += time.Duration(random.ExpFloat64() / s.directRate * float64(time.Second))
		if at > s.period {
			break
		}
		time.Sleep(time.Until(began.Add(at)))
		client, req := a.clients[random.IntN(len(a.clients))], request(random.IntN(s.tenants))
		wait.Go(func() {
			err := ask(ctx, client, req)
			latency := time.Since(began) - at
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, latency)
			if err != nil && !errors.Is(err, errNoAnswer) {
				failed = err
			}
		})
	}
	wait.Wait()
	return latencies, failed
}
