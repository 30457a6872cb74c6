package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestReadFrame: what an API server sends is read and kept byte for byte.
func TestReadFrame(t *testing.T) {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", ResourceVersion: "7"}}
	for _, a := range []string{"10.0.0.1", "10.0.0.2"} {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	var wire []byte
	for _, kind := range []string{"MODIFIED", "BOOKMARK"} {
		object, err := slice.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}, Raw: object}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		event, err := (&metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: append([]byte("k8s\x00"), envelope...)}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		wire = append(binary.BigEndian.AppendUint32(wire, uint32(len(event))), event...)
	}
	from := bytes.NewReader(wire)
	change, _, err := readFrame(from)
	if err != nil || change.cluster != "shop/cart:80" || !maps.Equal(change.present, map[string]bool{"10.0.0.1": true, "10.0.0.2": true}) {
		t.Fatalf("%+v, %v", change, err)
	}
	bookmark, read, err := readFrame(from)
	if err != nil || bookmark.cluster != "" || read.ResourceVersion != "7" {
		t.Fatalf("%+v, %v", bookmark, err)
	}
	if !bytes.Equal(append(change.bytes, bookmark.bytes...), wire) {
		t.Error("the bytes are others")
	}
	if _, _, err := readFrame(from); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}
