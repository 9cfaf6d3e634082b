package netpoll

// list is a doubly linked list of connections, oldest first. The links live in
// the connection, one pair for each list it can be on.
type list struct {
	which       listID
	front, back *Conn
}

type listID uint8

const (
	listHalf    listID = iota // hold a half frame, in the order in which it began
	listBlocked               // the peer does not take what we send, in the order of its last progress
	listHungry                // were refused memory
	listCount
)

// link is a connection's place on one list.
type link struct {
	prev, next *Conn
	on         bool
}

func (l *list) has(c *Conn) bool { return c.links[l.which].on }

func (l *list) pushBack(c *Conn) {
	k := &c.links[l.which]
	if k.on {
		panic("BUG: connection is on the list already")
	}
	*k = link{prev: l.back, on: true}
	if l.back != nil {
		l.back.links[l.which].next = c
	} else {
		l.front = c
	}
	l.back = c
}

// remove takes c off the list if it is on it.
func (l *list) remove(c *Conn) {
	k := &c.links[l.which]
	if !k.on {
		return
	}
	if k.prev != nil {
		k.prev.links[l.which].next = k.next
	} else {
		l.front = k.next
	}
	if k.next != nil {
		k.next.links[l.which].prev = k.prev
	} else {
		l.back = k.prev
	}
	*k = link{}
}

func (l *list) after(c *Conn) *Conn { return c.links[l.which].next }
