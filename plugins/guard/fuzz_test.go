package guard

import (
	"testing"

	"github.com/google/nftables/userdata"
)

// FuzzRecord: whatever an element's user data is, reading it neither fails nor
// yields a port that could not have been attached.
func FuzzRecord(f *testing.F) {
	for _, p := range somePorts() {
		f.Add(userdata.AppendString(nil, userdata.NFTNL_UDATA_SET_ELEM_COMMENT, p.record()))
	}
	f.Add([]byte{0, 200, 1})
	f.Add([]byte{0})
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		e := setPorts.element(nameBytes("fdp0"))
		e.comment = comment(data)
		p, ok := e.port()
		if !ok {
			return
		}
		if err := p.validate(); err != nil {
			t.Errorf("%q yields %+v: %v", data, p, err)
		}
		again := p.elements()[0]
		if again.comment == "" {
			return // too long to be written
		}
		if q, ok := again.port(); !ok || q.record() != again.comment {
			t.Errorf("%q yields %q, and that %q", data, again.comment, q.record())
		}
	})
}
