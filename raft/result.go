package raft

// A Result crosses dragonboat's result channel, and later the wire of a forwarded proposal, as bytes.

func encodeResult(r Result) []byte {
	e := encoder{b: make([]byte, 0, 32)}
	e.uint(r.Index)
	e.uint(uint64(r.Code))
	e.string(r.Detail)
	e.int(r.Value)
	list(&e, r.Items, func(e *encoder, i *ItemResult) {
		e.uint(uint64(i.Code))
		e.string(i.Detail)
	})
	return e.b
}

func decodeResult(b []byte) (Result, error) {
	d := decoder{b: b}
	r := Result{Index: d.uint(), Code: Code(d.uint16()), Detail: d.string(), Value: d.int()}
	r.Items = unlist(&d, 2, func(d *decoder, i *ItemResult) {
		i.Code = Code(d.uint16())
		i.Detail = d.string()
	})
	return r, d.finish()
}
