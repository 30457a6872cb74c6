package dir

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/agnivade/levenshtein"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// An issue is what is wrong at one place of a document.
type issue struct {
	line           int
	field, message string
}

// checker compares a value with the Go type that it shall become, and notes the line of every field. It
// finds all that is wrong, where a decoder stops at the first, and knows the fields that were meant.
type checker struct {
	issues []issue
	lines  map[string]int
}

func (c *checker) issue(v *value, path, format string, args ...any) {
	c.issues = append(c.issues, issue{v.line, path, fmt.Sprintf(format, args...)})
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// examples are what to expect of types that read themselves.
var examples = map[reflect.Type]string{
	reflect.TypeFor[metav1.Duration]():    `a duration such as "2s" or "500ms"`,
	reflect.TypeFor[metav1.Time]():        `a time such as "2026-01-31T12:00:00Z"`,
	reflect.TypeFor[metav1.MicroTime]():   `a time such as "2026-01-31T12:00:00.000000Z"`,
	reflect.TypeFor[resource.Quantity]():  `a quantity such as "500m" or "2Gi"`,
	reflect.TypeFor[intstr.IntOrString](): `a port's number or name`,
}

func (c *checker) check(v *value, t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case v.shape == isFault:
		c.issue(v, path, "%s", v.text)
		return
	case v.shape == isNull:
		return
	case reflect.PointerTo(t).Implements(unmarshaler):
		c.checkUnmarshaler(v, t, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		c.checkStruct(v, t, path)
	case reflect.Map:
		if c.expect(v, path, isMapping, "a mapping") {
			c.eachMember(v, path, func(m member, _ string) { c.check(m.value, t.Elem(), path+"["+m.key+"]") })
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			c.expect(v, path, isText, "a string")
		} else if c.expect(v, path, isList, "a list") {
			for i, item := range v.items {
				at := path + "[" + strconv.Itoa(i) + "]"
				c.lines[at] = item.line
				c.check(item, t.Elem(), at)
			}
		}
	case reflect.String:
		if v.boolish {
			c.issue(v, path, "%s without quotes is a boolean in YAML 1.1: put it in quotes", v.text)
		} else {
			c.expect(v, path, isText, "a string")
		}
	case reflect.Bool:
		c.expect(v, path, isBoolean, "true or false")
	case reflect.Float32, reflect.Float64:
		c.expect(v, path, isNumber, "a number")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if c.expect(v, path, isNumber, "a whole number") {
			if _, err := strconv.ParseInt(v.text, 10, t.Bits()); err != nil {
				c.issue(v, path, "expected a whole number of at most %d bits, has %s", t.Bits(), v.text)
			}
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if c.expect(v, path, isNumber, "a whole number") {
			if _, err := strconv.ParseUint(v.text, 10, t.Bits()); err != nil {
				c.issue(v, path, "expected a whole number, 0 or more, of at most %d bits, has %s", t.Bits(), v.text)
			}
		}
	}
}

// expect checks the shape of a value and gives a hint where only the quotes are wrong.
func (c *checker) expect(v *value, path string, want shape, description string) bool {
	if v.shape == want {
		return true
	}
	hint := ""
	switch {
	case want == isText && (v.shape == isBoolean || v.shape == isNumber):
		hint = ": put it in quotes"
	case want == isBoolean && v.shape == isText && (v.text == "true" || v.text == "false"):
		hint = ": leave the quotes out"
	case want == isNumber && v.shape == isText:
		if _, err := strconv.ParseFloat(v.text, 64); err == nil {
			hint = ": leave the quotes out"
		}
	}
	c.issue(v, path, "expected %s, has %s%s", description, v, hint)
	return false
}

// checkUnmarshaler lets a type that reads itself, such as a quantity, try.
func (c *checker) checkUnmarshaler(v *value, t reflect.Type, path string) {
	if bad := v.findFault(); bad != nil {
		c.issue(bad, path, "%s", bad.text)
		return
	}
	err := json.Unmarshal(v.json(nil), reflect.New(t).Interface())
	if err == nil {
		return
	}
	if example, ok := examples[t]; ok {
		c.issue(v, path, "expected %s, has %s", example, v)
	} else {
		c.issue(v, path, "%v", err)
	}
}

func (v *value) findFault() *value {
	if v.shape == isFault {
		return v
	}
	for _, m := range v.members {
		if bad := m.value.findFault(); bad != nil {
			return bad
		}
	}
	for _, item := range v.items {
		if bad := item.findFault(); bad != nil {
			return bad
		}
	}
	return nil
}

func (c *checker) checkStruct(v *value, t reflect.Type, path string) {
	if !c.expect(v, path, isMapping, "a mapping") {
		return
	}
	fields := fieldsOf(t)
	c.eachMember(v, path, func(m member, at string) {
		if field, ok := fields.types[m.key]; ok {
			c.check(m.value, field, at)
			return
		}
		message := "unknown field"
		if meant := near(m.key, fields.names); meant != "" {
			message += fmt.Sprintf("; did you mean %q?", meant)
		} else if len(fields.names) <= 12 {
			message += "; expected one of " + strings.Join(fields.names, ", ")
		}
		c.issues = append(c.issues, issue{m.line, at, message})
	})
}

// eachMember visits the members of a mapping and reports keys that stand twice.
func (c *checker) eachMember(v *value, path string, visit func(member, string)) {
	first := make(map[string]int, len(v.members))
	for _, m := range v.members {
		at := m.key
		if path != "" {
			at = path + "." + m.key
		}
		if line, ok := first[m.key]; ok {
			c.issues = append(c.issues, issue{m.line, at, fmt.Sprintf("stands twice; the first is in line %d", line)})
			continue
		}
		first[m.key] = m.line
		c.lines[at] = m.line
		visit(m, at)
	}
}

// near is the name that was probably meant, "" if none is near.
func near(name string, names []string) string {
	best, distance := "", max(1, min(len(name), 30)/3)+1
	if len(name) > 60 {
		return "" // not a slip of the pen
	}
	for _, candidate := range names {
		if strings.EqualFold(candidate, name) {
			return candidate
		}
		if d := levenshtein.ComputeDistance(name, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// structFields are the fields of a struct as JSON names them.
type structFields struct {
	types map[string]reflect.Type
	names []string // sorted
}

var structs sync.Map // of reflect.Type to structFields

func fieldsOf(t reflect.Type) structFields {
	if known, ok := structs.Load(t); ok {
		return known.(structFields)
	}
	fields := structFields{types: map[string]reflect.Type{}}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name == "" && field.Anonymous:
			for inner, typ := range fieldsOf(field.Type).types {
				fields.types[inner] = typ
			}
		case name == "":
			fields.types[field.Name] = field.Type
		default:
			fields.types[name] = field.Type
		}
	}
	for name := range fields.types {
		fields.names = append(fields.names, name)
	}
	slices.Sort(fields.names)
	structs.Store(t, fields)
	return fields
}
