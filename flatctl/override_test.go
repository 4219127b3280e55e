package main

import "testing"

// Options and lease times of one workload: set, shown, changed and given up; mistakes
// touch nothing.
func TestReserveOverrides(t *testing.T) {
	s := newSession(t)
	s.run("apply", s.file("flat", "10.0.0.0/24", ""))
	for _, args := range [][]string{
		{"--option", "42=10.0.0.9,10.0.0.10", "--option", "3=", "--lease-time", "12h"},
		{"-o", "json", "--option", "42=10.0.0.11", "--option", "224=hex:0a0b"},
		{"-o", "json", "--clear-options", "--lease-time", "default"},
		{"--option", "42"},
		{"--option", "51=3600"},
		{"--option", "42=ntp.example.org"},
		{"--option", "42=10.0.0.9", "--option", "42=10.0.0.10"},
		{"--lease-time", "12"},
		{"--lease-time", "1s"},
	} {
		s.run(append([]string{"reserve", "flat", "--workload", "default/db-0"}, args...)...)
		if args[0] == "--option" && args[1] == "42=10.0.0.9,10.0.0.10" {
			s.run("reservations", "-o", "json")
		}
	}
	s.golden("overrides.txt")
}
