package scrape

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// families are the decoded metric families of one page, by name.
type families map[string]*dto.MetricFamily

// sampleSuffixes are what the text format appends to the name of a histogram or summary.
var sampleSuffixes = [][]byte{[]byte("_bucket"), []byte("_count"), []byte("_sum")}

// decode reads the families in wanted out of a body, and how many samples they have. A page has
// hundreds of samples of which a policy names a few; the others are passed over before the decoder,
// which is most of the cost, sees them.
func decode(body []byte, format expfmt.FormatType, wanted map[string]bool, maxSamples int) (families, int, *failure) {
	if format == expfmt.TypeProtoDelim {
		return decodeProtobuf(body, wanted, maxSamples)
	}
	return decodeText(body, wanted, maxSamples)
}

// textDecoder is reused because a fresh parser allocates several kilobytes.
type textDecoder struct {
	parser expfmt.TextParser
	kept   bytes.Buffer
	lines  []int32 // the number in the page of each line in kept
}

var textDecoders = sync.Pool{New: func() any {
	return &textDecoder{parser: expfmt.NewTextParser(model.LegacyValidation)}
}}

// maxLabels bounds the labels of a sample: the time that expfmt takes for one grows with the square of
// their number. An equals sign inside a label's value counts as well.
const maxLabels = 64

// maxPooledText is the largest text that a pooled textDecoder keeps room for.
const maxPooledText = 256 << 10

func decodeText(body []byte, wanted map[string]bool, maxSamples int) (families, int, *failure) {
	if len(body) > 0 && body[len(body)-1] != '\n' {
		return nil, 0, failed(reasonTruncated, "the page ends in the middle of a line")
	}
	d := textDecoders.Get().(*textDecoder)
	defer func() {
		if d.kept.Cap() <= maxPooledText {
			textDecoders.Put(d)
		}
	}()
	samples, fail := d.keep(body, wanted, maxSamples)
	switch {
	case fail != nil:
		return nil, 0, fail
	case samples > maxSamples:
		return nil, 0, tooManySamples(maxSamples)
	}
	decoded, err := d.parser.TextToMetricFamilies(&d.kept)
	if err != nil {
		line := int32(0)
		var syntax expfmt.ParseError
		if errors.As(err, &syntax) && syntax.Line >= 1 && syntax.Line <= len(d.lines) {
			line = d.lines[syntax.Line-1]
		}
		return nil, 0, failed(reasonSyntax, "line %d of the page is not valid Prometheus text 0.0.4", line)
	}
	return decoded, samples, nil
}

// keep copies the lines of the wanted families, and counts the samples among them. HELP lines say
// nothing to us, and lines of names in quotes are not of version 0.0.4.
func (d *textDecoder) keep(body []byte, wanted map[string]bool, maxSamples int) (samples int, fail *failure) {
	d.kept.Reset()
	d.lines = d.lines[:0]
	for number := int32(1); len(body) > 0; number++ {
		line := body
		if end := bytes.IndexByte(body, '\n'); end >= 0 {
			line, body = body[:end+1], body[end+1:]
		} else {
			body = nil
		}
		line = bytes.TrimLeft(line, " \t")
		name, isType := line, false
		if line[0] == '#' {
			rest, ok := bytes.CutPrefix(bytes.TrimLeft(line[1:], " \t"), []byte("TYPE"))
			if !ok {
				continue
			}
			name, isType = bytes.TrimLeft(rest, " \t"), true
		}
		if end := bytes.IndexAny(name, "{ \t\r\n"); end >= 0 {
			name = name[:end]
		}
		if !isWanted(name, wanted) {
			continue
		}
		if !isType {
			if samples++; samples > maxSamples {
				return samples, nil
			}
			if bytes.Count(line, []byte{'='}) > maxLabels {
				return samples, failed(reasonSamples, "line %d of the page has more than %d labels", number, maxLabels)
			}
		}
		d.kept.Write(line)
		d.lines = append(d.lines, number)
	}
	return samples, nil
}

func isWanted(name []byte, wanted map[string]bool) bool {
	if wanted[string(name)] {
		return true
	}
	for _, suffix := range sampleSuffixes {
		if base, ok := bytes.CutSuffix(name, suffix); ok {
			return wanted[string(base)]
		}
	}
	return false
}

func tooManySamples(limit int) *failure {
	return failed(reasonSamples, "the families that the policy names have more than %d samples", limit)
}

// Field numbers of io.prometheus.client: MetricFamily, Metric and Histogram.
const (
	familyName      protowire.Number = 1
	familyMetric    protowire.Number = 4
	metricHistogram protowire.Number = 7
	histogramBucket protowire.Number = 3
)

func decodeProtobuf(body []byte, wanted map[string]bool, maxSamples int) (families, int, *failure) {
	decoded, samples := families{}, 0
	for len(body) > 0 {
		message, n := protowire.ConsumeBytes(body)
		if n < 0 {
			if errors.Is(protowire.ParseError(n), io.ErrUnexpectedEOF) {
				return nil, 0, failed(reasonTruncated, "the page ends in the middle of a metric family")
			}
			return nil, 0, invalidProtobuf()
		}
		body = body[n:]
		name, ok := nameOf(message)
		if !ok {
			return nil, 0, invalidProtobuf()
		}
		if !wanted[string(name)] {
			continue
		}
		// Counted before it is decoded: a few bytes on the wire can be a hundred in memory.
		if samples += countSamples(message); samples > maxSamples {
			return nil, 0, tooManySamples(maxSamples)
		}
		family := &dto.MetricFamily{}
		if err := proto.Unmarshal(message, family); err != nil {
			return nil, 0, invalidProtobuf()
		}
		if before := decoded[family.GetName()]; before != nil {
			before.Metric = append(before.Metric, family.Metric...)
			continue
		}
		decoded[family.GetName()] = family
	}
	return decoded, samples, nil
}

func invalidProtobuf() *failure {
	return failed(reasonSyntax, "the page is not a sequence of delimited io.prometheus.client.MetricFamily messages")
}

// nameOf is the name of an encoded MetricFamily. Encoders write it first, so that the metrics behind
// it need not be passed over.
func nameOf(family []byte) ([]byte, bool) {
	for len(family) > 0 {
		number, kind, n := protowire.ConsumeTag(family)
		if n < 0 {
			return nil, false
		}
		family = family[n:]
		if number == familyName && kind == protowire.BytesType {
			name, n := protowire.ConsumeBytes(family)
			return name, n >= 0
		}
		if n = protowire.ConsumeFieldValue(number, kind, family); n < 0 {
			return nil, false
		}
		family = family[n:]
	}
	return nil, true
}

// countSamples counts the samples of an encoded MetricFamily as the text format would: one per
// metric and one per bucket of a classic histogram.
func countSamples(family []byte) int {
	samples := 0
	for metric := range fieldsOf(family, familyMetric) {
		samples++
		for histogram := range fieldsOf(metric, metricHistogram) {
			for range fieldsOf(histogram, histogramBucket) {
				samples++
			}
		}
	}
	return samples
}

// fieldsOf yields the values of one length-delimited field, and stops at the first malformed byte,
// which proto.Unmarshal reports.
func fieldsOf(message []byte, field protowire.Number) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(message) > 0 {
			number, kind, n := protowire.ConsumeTag(message)
			if n < 0 {
				return
			}
			message = message[n:]
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return
			}
			if number == field && kind == protowire.BytesType {
				value, _ := protowire.ConsumeBytes(message[:n])
				if !yield(value) {
					return
				}
			}
			message = message[n:]
		}
	}
}

// wantedFamilies is the set of families to decode for the given names. A name such as
// x_seconds_count may be a counter of its own or the count of the histogram x_seconds.
func wantedFamilies(names ...string) map[string]bool {
	wanted := map[string]bool{}
	for _, name := range names {
		if name == "" {
			continue
		}
		wanted[name] = true
		if base, ok := strings.CutSuffix(name, "_count"); ok {
			wanted[base] = true
		}
	}
	return wanted
}
