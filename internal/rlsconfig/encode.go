package rlsconfig

import (
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// Encode is the list of a fleet's rules as a message, for what keeps and sends resources. Equal lists give
// equal messages, and the message is equal bytes where it is encoded deterministically. It is an error if a
// rule holds text that is not UTF-8.
func Encode(rules []*Rule) (*structpb.Struct, error) {
	list := &structpb.ListValue{Values: make([]*structpb.Value, len(rules))}
	for i, r := range rules {
		text, err := json.Marshal(r)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", r.ID, err)
		}
		one := &structpb.Struct{}
		if err := protojson.Unmarshal(text, one); err != nil {
			return nil, fmt.Errorf("rule %q: %w", r.ID, err)
		}
		list.Values[i] = structpb.NewStructValue(one)
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"rules": structpb.NewListValue(list)}}, nil
}

// Decode is the list that was encoded. The message may have come from a file or from another version of ours:
// a rule that cannot be read, or that Compile refuses, is left out and named in the error.
func Decode(s *structpb.Struct) ([]*Rule, error) {
	var rules []*Rule
	var problems []error
	for i, v := range s.GetFields()["rules"].GetListValue().GetValues() {
		r, err := decodeRule(v)
		if err != nil {
			problems = append(problems, fmt.Errorf("rules[%d]: %w", i, err))
			continue
		}
		rules = append(rules, r)
	}
	return rules, errors.Join(problems...)
}

func decodeRule(v *structpb.Value) (*Rule, error) {
	text, err := protojson.Marshal(v)
	if err != nil {
		return nil, err
	}
	read := &Rule{}
	if err := json.Unmarshal(text, read); err != nil {
		return nil, err
	}
	r, err := Compile(read.ID, read.OnError, read.Limit)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", read.ID, err)
	}
	return r, nil
}
