package filter

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// parseSave reads what iptables-save printed. It keeps our chains and the built-in
// ones that jump to them.
func parseSave(out []byte) (*seen, error) {
	s := &seen{depth: text, chains: map[string][]seenRule{}}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	table := ""
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" || line[0] == '#':
		case line == "COMMIT":
			table = ""
		case line[0] == '*':
			table = line[1:]
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			if wanted(table, name) {
				s.chains[name] = nil
			}
		case strings.HasPrefix(line, "-A "):
			name, spec, _ := strings.Cut(line[len("-A "):], " ")
			if !wanted(table, name) {
				continue
			}
			if !s.has(name) {
				return nil, fmt.Errorf("reading iptables-save: rule for undeclared chain %s", name)
			}
			r := seenRule{spec: spec}
			// Of a workload's chain only the first rule and their number are asked for, and
			// the text to move it; with the legacy back end every change reads all.
			if !strings.HasPrefix(name, workloadPrefix) || len(s.chains[name]) == 0 {
				r = parseSpec(spec)
			}
			s.chains[name] = append(s.chains[name], r)
		default:
			return nil, fmt.Errorf("reading iptables-save: unknown line %q", line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading iptables-save: %w", err)
	}
	if table != "" {
		return nil, fmt.Errorf("reading iptables-save: table %s ends without its COMMIT", table)
	}
	return s, nil
}

// wanted says whether a chain is ours, or jumps to one of ours.
func wanted(table, chain string) bool {
	for _, b := range builtins {
		if table == b.table && chain == b.chain {
			return true
		}
	}
	return strings.HasPrefix(chain, ourPrefix) && table == tableOf(chain)
}

// parseSpec understands destination, comment and jump; anything else makes a rule
// not plain.
func parseSpec(spec string) seenRule {
	r := seenRule{spec: spec, plain: true}
	words, ok := splitWords(spec)
	if !ok {
		return seenRule{spec: spec}
	}
	for i := 0; i < len(words); i++ {
		argument := ""
		if i+1 < len(words) {
			argument = words[i+1]
		}
		switch {
		case words[i] == "-d":
			dst, err := netip.ParsePrefix(argument)
			r.plain = r.plain && err == nil && r.to(dst)
			i++
		case words[i] == "-j" && r.jump == "" && argument != "":
			r.jump = argument
			i++
		case words[i] == "-m" && argument == "comment":
			i++
		case words[i] == "--comment" && r.comment == "":
			r.comment = argument
			i++
		default:
			r.plain = false
		}
	}
	// A verdict and a chain look alike; most are of no matter.
	if !isKnown(r.jump) {
		r.jump = ""
	}
	r.plain = r.plain && r.jump != ""
	return r
}

// splitWords splits at spaces outside double quotes; inside, a backslash makes the
// next character itself. ok is false if a quote stays open.
func splitWords(s string) (words []string, ok bool) {
	var word strings.Builder
	inWord, quoted := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted, inWord = !quoted, true
		case c == '\\' && quoted && i+1 < len(s):
			i++
			word.WriteByte(s[i])
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, !quoted
}
