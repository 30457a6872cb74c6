// Package celx says whether Envoy will take a CEL expression of a limit. One that it does not take costs
// the whole route configuration it stands in, so whoever lets one pass asks here. It is a leaf.
//
// The attributes are those of a request that has not been sent on yet (Envoy's documentation, "Attributes").
// Envoy leaves out of the language what could be made to take long or much: comprehensions, the putting
// together of strings and lists, conversions to string, large regular expressions
// (source/extensions/filters/common/expr/evaluator.cc). Some of that it finds out at a request: the expression then
// has no value, and the limit holds for nobody, which is worse than a refusal.
package celx

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"

	"evenkeel.io/controlplane/internal/re2"
)

const (
	// MaxLength bounds an expression, in characters.
	MaxLength = 512
	// maxProgram is Envoy's bound on a regular expression in an expression, in instructions.
	maxProgram = 100
	// maxDepth bounds how deep an expression nests: it is parsed by recursion, here and in Envoy.
	maxDepth = 32
)

// attributes are what an expression may speak of.
var attributes = map[string]*cel.Type{
	"request.path":        cel.StringType,
	"request.url_path":    cel.StringType,
	"request.query":       cel.StringType,
	"request.host":        cel.StringType,
	"request.scheme":      cel.StringType,
	"request.method":      cel.StringType,
	"request.protocol":    cel.StringType,
	"request.headers":     cel.MapType(cel.StringType, cel.StringType),
	"request.referer":     cel.StringType,
	"request.useragent":   cel.StringType,
	"request.id":          cel.StringType,
	"request.time":        cel.TimestampType,
	"request.size":        cel.IntType,
	"source.address":      cel.StringType,
	"source.port":         cel.IntType,
	"destination.address": cel.StringType,
	"destination.port":    cel.IntType,
}

// language knows the attributes, and around is the same with room for what we write around an expression. They
// take a millisecond to make, so whoever has no expression does without.
var (
	language = sync.OnceValues(func() (*cel.Env, error) { return newEnv(maxDepth, MaxLength) })
	around   = sync.OnceValues(func() (*cel.Env, error) { return newEnv(maxDepth+8, MaxLength+64) })
)

func newEnv(depth, length int) (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.ClearMacros(), cel.Macros(cel.HasMacro),
		cel.ParserRecursionLimit(depth), cel.ParserExpressionSizeLimit(length),
	}
	for name, kind := range attributes {
		options = append(options, cel.Variable(name, kind))
	}
	return cel.NewEnv(options...)
}

// Condition says what is wrong with an expression that is to be true or false, as the end of a sentence
// that begins with it.
func Condition(expression string) error { return check(expression, "true or false", cel.BoolType) }

// Value says what is wrong with an expression whose value is to be part of a key, as the end of a sentence
// that begins with it.
func Value(expression string) error {
	return check(expression, "a string, a number or a bool", values...)
}

// Made says what is wrong with an expression that we made, of a user's or around one, as Value does.
func Made(expression string) error {
	if !utf8.ValidString(expression) {
		return errors.New("is no UTF-8")
	}
	return compile(around, expression, "a string, a number or a bool", values...)
}

// values are what an entry of a descriptor can be made of.
var values = []*cel.Type{cel.StringType, cel.IntType, cel.UintType, cel.DoubleType, cel.BoolType}

func check(expression, expected string, kinds ...*cel.Type) error {
	switch {
	case strings.TrimSpace(expression) == "":
		return errors.New("is empty; expected an expression of Envoy's attributes, such as request.host")
	case utf8.RuneCountInString(expression) > MaxLength:
		return fmt.Errorf("is longer than %d characters", MaxLength)
	case !utf8.ValidString(expression) || strings.ContainsAny(expression, "\r\n\x00"):
		return errors.New("must be one line of UTF-8 without NUL")
	}
	return compile(language, expression, expected, kinds...)
}

func compile(language func() (*cel.Env, error), expression, expected string, kinds ...*cel.Type) error {
	env, err := language()
	if err != nil {
		return err
	}
	checked, issues := env.Compile(expression)
	if issues.Err() != nil {
		return explain(issues)
	}
	if err := lacking(checked.NativeRep()); err != nil {
		return err
	}
	if kind := checked.OutputType(); !slices.ContainsFunc(kinds, kind.IsExactType) {
		return fmt.Errorf("gives a value of type %s; expected %s", kind, expected)
	}
	return nil
}

var (
	undeclared = regexp.MustCompile(`undeclared reference to '([^']*)'`)
	attribute  = regexp.MustCompile(`^(request|response|connection|upstream|source|destination|metadata|filter_state|upstream_filter_state|xds)$`)
	macros     = []string{"all", "exists", "exists_one", "existsOne", "map", "filter"}
)

// explain is the first issue, in words for who does not know the checker.
func explain(issues *cel.Issues) error {
	first := issues.Errors()[0]
	at := fmt.Sprintf("at character %d: ", first.Location.Column()+1)
	if name := undeclared.FindStringSubmatch(first.Message); name != nil {
		switch {
		case slices.Contains(macros, name[1]) || slices.ContainsFunc(issues.Errors(), func(e *cel.Error) bool {
			other := undeclared.FindStringSubmatch(e.Message)
			return other != nil && slices.Contains(macros, other[1])
		}):
			return errors.New(at + "Envoy has no all, exists, exists_one, map and filter")
		case attribute.MatchString(name[1]):
			return fmt.Errorf("%snames an attribute of %s that there is not before a request is sent on; expected one of %s", at, name[1], names())
		}
		return fmt.Errorf("%sundeclared reference to %.60q; expected one of %s", at, name[1], names())
	}
	message, _, _ := strings.Cut(first.Message, " | ")
	return fmt.Errorf("%s%.200s", at, message)
}

func names() string {
	all := make([]string, 0, len(attributes))
	for name := range attributes {
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// lacking says what of the expression Envoy leaves out of the language.
func lacking(checked *ast.AST) (err error) {
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if err != nil || e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Add:
			ids := checked.GetOverloadIDs(e.ID())
			if slices.ContainsFunc([]string{overloads.AddString, overloads.AddBytes, overloads.AddList}, func(id string) bool { return slices.Contains(ids, id) }) {
				err = errors.New("puts strings or lists together with +, which Envoy does not")
			}
		case overloads.TypeConvertString:
			err = errors.New("converts to string, which Envoy does not")
		case overloads.Matches:
			args := call.Args()
			pattern := args[len(args)-1]
			text, literal := types.String(""), pattern.Kind() == ast.LiteralKind
			if literal {
				text, literal = pattern.AsLiteral().(types.String)
			}
			if !literal {
				err = errors.New("matches what is no literal; expected a regular expression in quotes")
			} else if problem := re2.CheckSize(string(text), maxProgram); problem != nil {
				err = fmt.Errorf("matches %.60q, which %w", string(text), problem)
			}
		}
	}))
	return err
}
