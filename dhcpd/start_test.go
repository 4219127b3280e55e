package main

import (
	"errors"
	"testing"
	"time"
)

func TestStarting(t *testing.T) {
	refused := errors.New("bridge br100 is served by another flat-dhcpd")
	type look struct {
		at      time.Duration // since the start
		refused bool
		serving bool
		again   time.Duration
		ends    bool
	}
	for name, looks := range map[string][]look{
		"serves, then loses it":             {{0, false, true, 0, false}, {time.Second, true, false, 0, false}, {time.Minute, true, false, 0, false}},
		"another has it, and keeps it":      {{0, true, false, yieldTime, false}, {time.Second, true, false, yieldTime - time.Second, false}, {yieldTime, true, false, 0, true}},
		"another had it, and ends":          {{0, true, false, yieldTime, false}, {time.Second, false, true, 0, false}, {5 * time.Second, true, false, 0, false}},
		"another of two":                    {{0, true, false, yieldTime, false}, {time.Millisecond, false, true, 0, false}},
		"a bridge while it starts":          {{0, false, false, 0, false}, {9 * time.Second, true, false, yieldTime, false}, {12 * time.Second, true, false, 0, true}},
		"a bridge long after":               {{0, false, false, 0, false}, {startPhase, true, false, 0, false}, {startPhase + yieldTime, true, false, 0, false}},
		"refused, not refused, refused":     {{0, true, false, yieldTime, false}, {time.Second, false, false, 0, false}, {3 * time.Second, true, false, yieldTime, false}},
		"nothing here, as long as it takes": {{0, false, false, 0, false}, {time.Hour, false, false, 0, false}},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Unix(1000, 0)
			s := starting{began: began}
			for _, l := range looks {
				var refusal error
				if l.refused {
					refusal = refused
				}
				again, err := s.look(began.Add(l.at), refusal, l.serving)
				if again != l.again || (err != nil) != l.ends {
					t.Errorf("after %s: again after %s, error %v", l.at, again, err)
				}
			}
		})
	}
}
