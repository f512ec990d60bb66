// The other end of a yamux session, made of an implementation that is not ours.
//
//	yamux_peer ADDRESS ROLE
//
// connects to ADDRESS. As a server it does for every stream what the stream's first byte
// says; as a client it opens streams of its own and says what came of it.
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/ioutil"
	"net"
	"os"

	"github.com/hashicorp/yamux"
)

var released = make(chan struct{})

func tell(stream *yamux.Stream) {
	digest := sha256.New()
	size, _ := io.Copy(digest, stream)
	fmt.Fprintf(stream, "%d %x", size, digest.Sum(nil))
}

func serve(session *yamux.Session, stream *yamux.Stream) {
	defer stream.Close()
	command := make([]byte, 1)
	if _, err := io.ReadFull(stream, command); err != nil {
		return
	}
	switch command[0] {
	case 'e': // echo
		io.Copy(stream, stream)
	case 't': // tell what came, after the end
		tell(stream)
	case 'l': // the same, but late
		<-released
		tell(stream)
	case 'r': // now is the time
		close(released)
	case 's': // send so many bytes
		size := make([]byte, 8)
		io.ReadFull(stream, size)
		block := make([]byte, 251*1100)
		for index := range block {
			block[index] = byte(index % 251)
		}
		for left := int(binary.BigEndian.Uint64(size)); left > 0; {
			if left < len(block) {
				block = block[:left]
			}
			stream.Write(block)
			left -= len(block)
		}
	case 'p': // ping
		_, err := session.Ping()
		fmt.Fprintf(stream, "%v", err)
	case 'g': // go away, and finish
		session.GoAway()
		io.Copy(stream, stream)
	}
}

func ask(session *yamux.Session) {
	stream, err := session.OpenStream()
	if err != nil {
		panic(err)
	}
	stream.Write([]byte("hello"))
	answer := make([]byte, 5)
	io.ReadFull(stream, answer)
	_, err = session.OpenStream() // after the other end has gone away
	fmt.Fprintf(stream, "%s, then %v", answer, err)
	stream.Close()
	<-session.CloseChan()
}

func main() {
	conn, err := net.Dial("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	config := yamux.DefaultConfig()
	config.LogOutput = ioutil.Discard
	if os.Args[2] == "client" {
		session, _ := yamux.Client(conn, config)
		ask(session)
		return
	}
	session, _ := yamux.Server(conn, config)
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go serve(session, stream)
	}
}
