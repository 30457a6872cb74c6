package xds

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
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
