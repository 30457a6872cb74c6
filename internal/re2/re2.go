// Package re2 says whether Envoy will take a regular expression. One that it does not take costs the
// whole route configuration it stands in, so every room that lets one pass asks here: the file it came
// from, the catalog, and the last check before the wire. It is a pure leaf.
//
// Go's syntax is that of RE2, which Envoy uses; what differs is how large a program may get.
package re2

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"
	"unicode"
)

const (
	// MaxLength bounds an expression that a user wrote, in bytes. Envoy compiles each on every worker
	// and tries it on every request that gets so far.
	MaxLength = 256
	// MaxProgram bounds the compiled program, in instructions. Envoy's own bound is 100 unless its
	// runtime says otherwise, which is what our RTDS layer does.
	MaxProgram = 10_000
)

// Check says what is wrong with an expression that a user wrote, as the end of a sentence that begins
// with it: "is longer than 256 bytes".
func Check(expression string) error {
	switch {
	case expression == "":
		return errors.New("is empty; expected an RE2 expression")
	case len(expression) > MaxLength:
		return fmt.Errorf("is longer than %d bytes", MaxLength)
	case strings.ContainsAny(expression, "\r\n\x00"):
		return errors.New("has a line break or a NUL, which nothing it could match has")
	}
	return CheckProgram(expression)
}

// CheckProgram is Check for an expression that we made, whatever its length.
func CheckProgram(expression string) error { return CheckSize(expression, MaxProgram) }

// CheckSize is CheckProgram where Envoy's bound on the program is another.
func CheckSize(expression string, most int) error {
	size, err := programSize(expression)
	if err != nil {
		return fmt.Errorf("is no RE2 expression: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	if size > most {
		return fmt.Errorf("compiles to some %d instructions, expected at most %d: fewer or smaller repetitions", size, most)
	}
	return nil
}

// programSize is no less than the size of the RE2 program that Envoy compiles the expression to, and
// refuses by. Go's programs differ from RE2's in that a class of characters is one instruction and not
// one per range of bytes; a range beyond ASCII takes RE2 up to about eight.
func programSize(expression string) (int, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, err
	}
	const beyondASCII = 8
	size := len(program.Inst)
	for _, inst := range program.Inst {
		switch inst.Op {
		case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			size += beyondASCII
		case syntax.InstRune, syntax.InstRune1:
			if folds := syntax.Flags(inst.Arg)&syntax.FoldCase != 0; folds || len(inst.Rune) == 1 && inst.Rune[0] > unicode.MaxASCII {
				size += beyondASCII
			}
			for i := 1; i < len(inst.Rune); i += 2 {
				size++
				if inst.Rune[i] > unicode.MaxASCII {
					size += beyondASCII
				}
			}
		}
	}
	return size, nil
}
