package xds

import (
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	libproto "google.golang.org/protobuf/proto"
)

// frame is a message that is encoded already, in parts that other streams may be sending too.
type frame struct{ parts [][]byte }

// selfDecoding is a message that knows a better way to be decoded than the library's.
type selfDecoding interface {
	// UnmarshalWire decodes the message from its protobuf encoding. It keeps nothing of data.
	UnmarshalWire(data []byte) error
}

// codec is gRPC's own for protobuf, but for frames, which go out as they are, and for messages that decode
// themselves. A server has one codec for all its services.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	out := make(mem.BufferSlice, 0, len(f.parts))
	for _, part := range f.parts {
		if len(part) > 0 {
			out = append(out, mem.SliceBuffer(part))
		}
	}
	return out, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(selfDecoding)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return m.UnmarshalWire(whole.ReadOnlyData())
}

// deltaRequest and sotwRequest are requests without what a node says of its extensions and features. That
// is nearly all of the 61 KB that an Envoy begins with, and takes half a millisecond to decode.
type (
	deltaRequest struct {
		discoveryv3.DeltaDiscoveryRequest
	}
	sotwRequest struct{ discoveryv3.DiscoveryRequest }
)

// UnmarshalWire implements selfDecoding.
func (r *deltaRequest) UnmarshalWire(data []byte) error {
	const node = 1
	return libproto.Unmarshal(leanNode(data, node), &r.DeltaDiscoveryRequest)
}

// UnmarshalWire implements selfDecoding.
func (r *sotwRequest) UnmarshalWire(data []byte) error {
	const node = 2
	return libproto.Unmarshal(leanNode(data, node), &r.DiscoveryRequest)
}

// leanNode is an encoded request without the extensions and client_features of the node that stands in the
// given field; data itself if there is none, or it cannot be read, for the library to say why.
func leanNode(data []byte, node protowire.Number) []byte {
	for at := 0; at < len(data); {
		field, kind, n := protowire.ConsumeField(data[at:])
		if n < 0 {
			return data
		}
		if field == node && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(data[at:])
			value, _ := protowire.ConsumeBytes(data[at+tag:])
			lean := withoutExtensions(value)
			out := make([]byte, 0, len(data)-len(value)+len(lean)) // the length of the node takes no more bytes
			return append(protowire.AppendBytes(append(out, data[:at+tag]...), lean), data[at+n:]...)
		}
		at += n
	}
	return data
}

// withoutExtensions is an encoded core.v3.Node without these fields; node itself if it cannot be read.
func withoutExtensions(node []byte) []byte {
	const extensions, clientFeatures = 9, 10
	var out []byte
	for rest := node; len(rest) > 0; {
		field, kind, n := protowire.ConsumeField(rest)
		if n < 0 {
			return node
		}
		if kind != protowire.BytesType || field != extensions && field != clientFeatures {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	return out
}
