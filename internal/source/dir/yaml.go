package dir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of one document. Aliases may repeat an anchor's content, but not multiply it without end.
const (
	maxDepth   = 64
	maxAliased = 20_000
)

// A value is a YAML node as JSON sees it, with its line. Aliases and merge keys are resolved; repeated
// keys are still there, for the schema to report with their path.
type value struct {
	line    int
	shape   shape
	text    string // of a string, as it is; of a number or boolean, as JSON writes it; of a fault, the message
	boolish bool   // a string that YAML 1.1 reads as a boolean because it has no quotes
	members []member
	items   []*value
}

type member struct {
	key   string
	line  int
	value *value
}

type shape int

const (
	isNull shape = iota
	isBoolean
	isNumber
	isText
	isList
	isMapping
	isFault // what JSON cannot say
)

// rawDocument is one document of a stream: a value, or why there is none.
type rawDocument struct {
	line  int
	value *value
	err   string
}

// split reads the documents of a stream. Text that is not YAML costs its own document only: the markers
// between documents begin a line, which nothing inside a document may.
func split(data []byte) (documents []rawDocument) {
	line := 1
	for len(data) > 0 {
		end := len(data)
		if at := marker.FindAllIndex(data, 2); len(at) > 0 && at[0][0] > 0 && !directives.Match(data[:at[0][0]]) {
			end = at[0][0]
		} else if len(at) > 1 {
			end = at[1][0]
		}
		documents = append(documents, parse(data[:end], line)...)
		line += bytes.Count(data[:end], []byte("\n"))
		data = data[end:]
	}
	return documents
}

var (
	marker     = regexp.MustCompile(`(?m)^---(?:[ \t\r]|$)`)
	directives = regexp.MustCompile(`^(?:[ \t]*(?:#.*)?\r?\n)*%`)
	errorLine  = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)
)

// parse reads what stands between two markers. That can still be several documents, if "..." ends one.
func parse(data []byte, first int) (documents []rawDocument) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return documents
		}
		if err != nil {
			line, message := place(err)
			last := bytes.Count(bytes.TrimRight(data, "\r\n"), []byte("\n"))
			return append(documents, rawDocument{line: first + min(line, last), err: "is not YAML: " + message})
		}
		c := converter{offset: first - 1, aliased: maxAliased}
		if v := c.convert(&node, 0, false); v.shape != isNull {
			documents = append(documents, rawDocument{line: v.line, value: v})
		}
	}
}

// place takes an error of package yaml apart. The line is counted from 0, as the package does where the
// grammar is at fault; where a token is, it counts from 1.
func place(err error) (line int, message string) {
	at := errorLine.FindStringSubmatch(err.Error())
	message = err.Error()[len(at[0]):]
	line, _ = strconv.Atoi(at[1])
	if !strings.HasPrefix(message, "did not find expected") {
		line--
	}
	return max(line, 0), message
}

// converter turns the nodes of one document into values.
type converter struct {
	offset  int // lines before the text that was parsed
	aliased int // how many more values aliases may stand for
}

func (c *converter) convert(n *yaml.Node, depth int, aliased bool) *value {
	v := &value{line: n.Line + c.offset}
	if aliased {
		c.aliased--
	}
	switch {
	case depth > maxDepth:
		return v.fault("is nested more than %d deep", maxDepth)
	case c.aliased < 0:
		return v.fault("has aliases that stand for more than %d values", maxAliased)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return c.convert(n.Content[0], depth, aliased)
	case yaml.AliasNode:
		line := v.line
		v = c.convert(n.Alias, depth+1, true)
		v.line = line
		return v
	case yaml.SequenceNode:
		if tag := n.ShortTag(); tag != "!!seq" {
			return v.fault("has the tag %s, which stands for nothing here", tag)
		}
		v.shape = isList
		for _, item := range n.Content {
			v.items = append(v.items, c.convert(item, depth+1, aliased))
		}
		return v
	case yaml.MappingNode:
		if tag := n.ShortTag(); tag != "!!map" {
			return v.fault("has the tag %s, which stands for nothing here", tag)
		}
		return c.mapping(v, n, depth, aliased)
	case yaml.ScalarNode:
		return v.scalar(n)
	}
	return v // an empty document
}

func (c *converter) mapping(v *value, n *yaml.Node, depth int, aliased bool) *value {
	v.shape = isMapping
	var merged []*value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return v.fault("has a key that is not a string")
		}
		converted := c.convert(content, depth+1, aliased)
		if key.ShortTag() == "!!merge" {
			if converted.shape == isList {
				merged = append(merged, converted.items...)
			} else {
				merged = append(merged, converted)
			}
			continue
		}
		v.members = append(v.members, member{key: key.Value, line: key.Line + c.offset, value: converted})
	}
	return v.merge(merged)
}

// merge adds the members of merge keys that v does not have itself; of several, the first counts.
func (v *value) merge(from []*value) *value {
	if len(from) == 0 {
		return v
	}
	has := make(map[string]bool, len(v.members))
	for _, m := range v.members {
		has[m.key] = true
	}
	for _, mapping := range from {
		if mapping.shape != isMapping {
			return v.fault("has a merge key << of something that is not a mapping")
		}
		for _, m := range mapping.members {
			if !has[m.key] {
				has[m.key] = true
				v.members = append(v.members, m)
			}
		}
	}
	return v
}

// yaml11Booleans are those of YAML 1.1, which kubectl reads, that YAML 1.2 takes for text.
var yaml11Booleans = []string{"yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF"}

func (v *value) scalar(n *yaml.Node) *value {
	switch tag := n.ShortTag(); tag {
	case "!!null":
		v.shape = isNull
	case "!!bool":
		v.shape, v.text = isBoolean, strings.ToLower(n.Value)
		if v.text != "true" && v.text != "false" {
			return v.fault("is a boolean that is neither true nor false")
		}
	case "!!str", "!!timestamp":
		v.shape, v.text = isText, n.Value
		v.boolish = n.Style == 0 && slices.Contains(yaml11Booleans, n.Value)
	case "!!int":
		var signed int64
		var unsigned uint64
		v.shape = isNumber
		if n.Decode(&signed) == nil {
			v.text = strconv.FormatInt(signed, 10)
		} else if n.Decode(&unsigned) == nil {
			v.text = strconv.FormatUint(unsigned, 10)
		} else {
			return v.fault("is a number too large to hold: %.40s", n.Value)
		}
	case "!!float":
		var f float64
		if n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return v.fault("is not a finite number: %.40s", n.Value)
		}
		v.shape = isNumber
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			v.text = strconv.FormatInt(int64(f), 10)
		} else {
			v.text = strconv.FormatFloat(f, 'g', -1, 64)
		}
	default:
		return v.fault("has the tag %s, which stands for nothing here", tag)
	}
	return v
}

func (v *value) fault(format string, args ...any) *value {
	return &value{line: v.line, shape: isFault, text: fmt.Sprintf(format, args...)}
}

// get is the member of that key, nil if there is none.
func (v *value) get(key string) *value {
	for _, m := range v.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// str is the string at the end of the keys, "" if there is none.
func (v *value) str(keys ...string) string {
	for _, key := range keys {
		if v = v.get(key); v == nil {
			return ""
		}
	}
	if v.shape != isText {
		return ""
	}
	return v.text
}

// json appends the value. It must be without faults.
func (v *value) json(b []byte) []byte {
	switch v.shape {
	case isBoolean, isNumber:
		return append(b, v.text...)
	case isText:
		return appendString(b, v.text)
	case isList:
		b = append(b, '[')
		for i, item := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.json(b)
		}
		return append(b, ']')
	case isMapping:
		b = append(b, '{')
		for i, m := range v.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, m.key), ':')
			b = m.value.json(b)
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

func appendString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // of a string: cannot fail
	return append(b, quoted...)
}

// String describes the value in a message.
func (v *value) String() string {
	switch v.shape {
	case isBoolean:
		return "the boolean " + v.text
	case isNumber:
		return "the number " + v.text
	case isText:
		return fmt.Sprintf("the string %.60q", v.text)
	case isList:
		return "a list"
	case isMapping:
		return "a mapping"
	}
	return "null"
}
