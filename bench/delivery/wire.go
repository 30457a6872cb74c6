package main

import (
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	deltaMethod  = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
	fleet        = "shop/edge"
)

// encoded is a message that is bytes already, and reading is what is to happen with bytes that arrive; they
// are valid only during the call.
type (
	encoded []byte
	reading func([]byte) error
)

// rawCodec passes bytes through: what costs next to nothing on the side that is not measured, and what the
// floor is made of.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(encoded)
	if !ok {
		return nil, fmt.Errorf("a %T to send, expected encoded bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(message)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	read, ok := v.(reading)
	if !ok {
		return fmt.Errorf("a %T to receive into, expected a reading", v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return read(buffer.ReadOnlyData())
}

// Field numbers of envoy/service/discovery/v3/discovery.proto, endpoint.proto and endpoint_components.proto.
const (
	requestNode     = 1
	requestType     = 2
	requestNonce    = 6
	requestError    = 7
	responseBody    = 2
	responseType    = 4
	responseNonce   = 5
	bodyVersion     = 1
	bodyResource    = 2
	bodyName        = 3
	anyValue        = 2
	claEndpoints    = 2
	localityWeight  = 3
	nodeID          = 1
	wrapperOfUint32 = 1
)

var errMalformed = errors.New("malformed protobuf")

// eachField visits the fields of a message. value is the content of a length-delimited field, and the
// encoded value of any other.
func eachField(message []byte, visit func(number protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, wireType, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errMalformed
		}
		message = message[n:]
		n = protowire.ConsumeFieldValue(number, wireType, message)
		if n < 0 {
			return errMalformed
		}
		value := message[:n]
		if wireType == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		if err := visit(number, value); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// field is the last field of that number, nil if there is none.
func field(message []byte, number protowire.Number) (found []byte, err error) {
	err = eachField(message, func(n protowire.Number, value []byte) error {
		if n == number {
			found = value
		}
		return nil
	})
	return found, err
}

// readResponse reads the type and the nonce of a delta response, then visits its resources.
func readResponse(message []byte, visit func(typeURL string, resource []byte) error) (typeURL, nonce string, err error) {
	err = eachField(message, func(number protowire.Number, value []byte) error {
		switch number {
		case responseType:
			typeURL = string(value)
		case responseNonce:
			nonce = string(value)
		}
		return nil
	})
	if err != nil {
		return "", "", err
	}
	return typeURL, nonce, eachField(message, func(number protowire.Number, value []byte) error {
		if number == responseBody {
			return visit(typeURL, value)
		}
		return nil
	})
}

// tickOf reads the tick that Shape.assignment hid in a resource.
func tickOf(resource []byte) (int, error) {
	at := resource
	for _, number := range []protowire.Number{bodyResource, anyValue, claEndpoints, localityWeight, wrapperOfUint32} {
		var err error
		if at, err = field(at, number); err != nil {
			return 0, err
		}
	}
	weight, n := protowire.ConsumeVarint(at)
	if n < 0 || weight == 0 {
		return 0, errors.New("a load assignment without the weight of its locality")
	}
	return int(weight) - 1, nil
}

// requests makes the requests of a swarm's streams, as far as they can be shared.
type requests struct {
	node          []byte // without an id
	clusters, eds []byte // the first of each type, without the node
	refusal       []byte // error_detail
}

// newRequests takes the names of the load assignments to ask for, and the versions that the client has
// already, by type and name. extensionBytes is about how long the node's list of extensions is.
func newRequests(names []string, versions map[string]map[string]string, extensionBytes int) (*requests, error) {
	node := &corev3.Node{Cluster: fleet, UserAgentName: "envoy"}
	for size := 0; size < extensionBytes; {
		e := &corev3.Extension{
			Name: fmt.Sprintf("envoy.filters.http.extension_%04d", len(node.Extensions)), Category: "envoy.filters.http",
			TypeUrls: []string{fmt.Sprintf("envoy.extensions.filters.http.extension_%04d.v3.Extension", len(node.Extensions))},
		}
		node.Extensions = append(node.Extensions, e)
		size += proto.Size(e) + 3
	}
	r := &requests{}
	for _, part := range []struct {
		into    *[]byte
		message proto.Message
	}{
		{&r.node, node},
		{&r.clusters, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusterType, InitialResourceVersions: versions[clusterType]}},
		{&r.eds, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType, ResourceNamesSubscribe: names, InitialResourceVersions: versions[endpointType]}},
		{&r.refusal, &status.Status{Code: 13, Message: "refused by the benchmark"}},
	} {
		var err error
		if *part.into, err = proto.Marshal(part.message); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// first is a stream's first request: the wildcard for clusters, with the node.
func (r *requests) first(id string) encoded {
	node := protowire.AppendString(protowire.AppendTag(nil, nodeID, protowire.BytesType), id)
	node = append(node, r.node...)
	return protowire.AppendBytes(protowire.AppendTag(append(encoded(nil), r.clusters...), requestNode, protowire.BytesType), node)
}

func (r *requests) subscribe() encoded { return r.eds }

func (r *requests) ack(typeURL, nonce string) encoded {
	request := protowire.AppendString(protowire.AppendTag(nil, requestType, protowire.BytesType), typeURL)
	return protowire.AppendString(protowire.AppendTag(request, requestNonce, protowire.BytesType), nonce)
}

func (r *requests) nack(typeURL, nonce string) encoded {
	return protowire.AppendBytes(protowire.AppendTag(r.ack(typeURL, nonce), requestError, protowire.BytesType), r.refusal)
}
