package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

const slicesPath = "/apis/discovery.k8s.io/v1/endpointslices"

// tape is what an API server said on a watch of EndpointSlices, byte for byte: first what there was, then what
// changed.
type tape struct {
	initial []byte
	changes []frame
}

// frame is one event of a watch as it was sent, and what it tells; no cluster for a bookmark.
type frame struct {
	bytes   []byte
	cluster string
	present map[string]bool // addresses
}

// record watches EndpointSlices as the program does. It returns when the API server has told what there is; what
// changes is recorded until stop is called, which returns the tape.
func record(ctx context.Context, config *rest.Config) (stop func() (*tape, error), err error) {
	ctx, cancel := context.WithCancel(ctx)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		cancel()
		return nil, err
	}
	t, begun, done := &tape{}, make(chan struct{}), make(chan error, 1)
	go func() { done <- t.record(ctx, client, config.Host+slicesPath, begun) }()
	stop = func() (*tape, error) {
		defer cancel()
		select {
		case err := <-done:
			return nil, fmt.Errorf("recording a watch: %w", err)
		default:
			cancel()
			<-done
			return t, nil
		}
	}
	select {
	case <-begun:
		return stop, nil
	case err := <-done:
		cancel()
		return nil, fmt.Errorf("recording a watch: %w", err)
	}
}

// record watches until ctx is done, and closes begun when it has what there was at first. An API server ends a
// watch that does not keep up; then it goes on from there.
func (t *tape) record(ctx context.Context, client *http.Client, url string, begun chan<- struct{}) error {
	query, version := "?watch=true&allowWatchBookmarks=true&timeoutSeconds=3600", ""
	for atFirst := true; ; {
		from := "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
		if !atFirst {
			from = "&resourceVersion=" + version
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+query+from, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Accept", runtime.ContentTypeProtobuf)
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			response.Body.Close()
			return errors.New(response.Status)
		}
		body := bufio.NewReaderSize(response.Body, 1<<20)
		for {
			f, slice, err := readFrame(body)
			if err == io.EOF && !atFirst {
				break
			}
			if err != nil {
				response.Body.Close()
				return err
			}
			version = slice.ResourceVersion
			if !atFirst {
				t.changes = append(t.changes, f)
				continue
			}
			t.initial = append(t.initial, f.bytes...)
			if slice.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
				atFirst = false
				close(begun)
			}
		}
		response.Body.Close()
	}
}

// readFrame reads one event: its length in four bytes, and the event in protobuf, in which the object is in the
// envelope that tells its type.
func readFrame(from io.Reader) (f frame, slice discoveryv1.EndpointSlice, err error) {
	f.bytes = make([]byte, 4)
	if _, err := io.ReadFull(from, f.bytes); err != nil {
		return f, slice, err
	}
	f.bytes = append(f.bytes, make([]byte, binary.BigEndian.Uint32(f.bytes))...)
	if _, err := io.ReadFull(from, f.bytes[4:]); err != nil {
		return f, slice, err
	}
	var event metav1.WatchEvent
	if err := event.Unmarshal(f.bytes[4:]); err != nil {
		return f, slice, err
	}
	object, ok := bytes.CutPrefix(event.Object.Raw, []byte("k8s\x00"))
	if !ok {
		return f, slice, fmt.Errorf("an event %s has no object in protobuf", event.Type)
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(object); err != nil {
		return f, slice, err
	}
	if err := slice.Unmarshal(envelope.Raw); err != nil {
		return f, slice, err
	}
	if event.Type == "BOOKMARK" {
		return f, slice, nil
	}
	f.cluster, f.present = slice.Namespace+"/"+slice.Name+":80", map[string]bool{}
	for _, e := range slice.Endpoints {
		f.present[e.Addresses[0]] = true
	}
	return f, slice, nil
}

// standIn is an API server that answers the watch of EndpointSlices from a tape, at the speed it is told, and has
// everything else answered by the one that it stands in for.
type standIn struct {
	*tape
	server  *http.Server
	address string
	watches atomic.Int32
	watch   chan func([]byte) error // writes to the watch that is open
}

func startStandIn(config *rest.Config, t *tape) (*standIn, error) {
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &standIn{tape: t, address: listener.Addr().String(), watch: make(chan func([]byte) error, 1)}
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc(slicesPath, s.play)
	s.server = &http.Server{Handler: mux}
	go s.server.Serve(listener) // ends with close
	return s, nil
}

func (s *standIn) close() { s.server.Close() }

// play answers the one watch that there may be.
func (s *standIn) play(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sendInitialEvents") != "true" || s.watches.Add(1) > 1 {
		s.watches.Add(1) // it is told of at the end
		http.Error(w, "the tape has one watch from the beginning", http.StatusNotImplemented)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
	write := func(b []byte) error {
		if _, err := w.Write(b); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}
	if write(s.initial) == nil {
		s.watch <- write
		<-r.Context().Done()
	}
}

// kubeconfig leads to the stand-in.
func (s *standIn) kubeconfig(dir string) (string, error) {
	file := filepath.Join(dir, "stand-in.kubeconfig")
	return file, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: "http://%s"}}]
contexts: [{name: it, context: {cluster: it}}]
current-context: it
`, s.address), 0o600)
}

// send plays the changes, as many a second as it is told and for as long, and tells the streams of each as it
// goes out. It returns how many there were.
func (s *standIn) send(ctx context.Context, swarm *swarm, perSecond int, during time.Duration) (made int, err error) {
	write := <-s.watch
	began := time.Now()
	for _, f := range s.changes {
		at := began.Add(time.Duration(made) * time.Second / time.Duration(perSecond))
		if at.Sub(began) >= during {
			break
		}
		if err := sleep(ctx, time.Until(at)); err != nil {
			return made, err
		}
		if f.cluster != "" {
			swarm.changed(f.cluster, f.present, time.Now())
			made++
		}
		if err := write(f.bytes); err != nil {
			return made, fmt.Errorf("the program has left the watch: %w", err)
		}
	}
	if n := s.watches.Load(); n != 1 {
		return made, fmt.Errorf("the program has asked for EndpointSlices %d times, which the tape cannot answer", n)
	}
	return made, nil
}
