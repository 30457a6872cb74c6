// Package status compares what was decided of each object (catalog verdicts, source problems) with
// what the fleet acknowledged and says it as conditions. It is a pure function of both.
package status
