// Package archtest is the house's rules as a test over its source: which room may import which, who may call C, who may
// read the command line, environment and signals. It owns the table of rules, in rules.go, and nothing imports it.
// Start reading at rooms.
package archtest
