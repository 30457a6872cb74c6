package xds

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// selfDecoding is a message that knows a better way to be decoded than the library's.
type selfDecoding interface {
	// UnmarshalWire decodes the message from its protobuf encoding. It keeps nothing of data.
	UnmarshalWire(data []byte) error
}

// codec is gRPC's own for protobuf, but for messages that decode themselves. A server has one codec for
// all its services.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(selfDecoding)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return m.UnmarshalWire(whole.ReadOnlyData())
}
