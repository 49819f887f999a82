// Reranks candidates over NATS and fails open: without a ranking in time, they keep the order they had.
//
//	go run . "machine learning algorithms" "Pizza recipes for beginners" "ML algorithms and optimization"
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

type request struct {
	Query     string   `json:"query"`
	Documents []string `json:"documents"`
}

type reply struct {
	Rankings []struct {
		Index *int     `json:"index"`
		Score *float64 `json:"score"`
	} `json:"rankings"`
	Error *struct {
		Kind string `json:"kind"`
	} `json:"error"`
}

// rerank gives the places of the documents in their new order. When there is none it gives them as they were, with the
// reason. It takes the budget at most.
func rerank(nc *nats.Conn, query string, documents []string, budget time.Duration) (order []int, reason error) {
	order, reason = ask(nc, query, documents, budget)
	if reason != nil {
		order = make([]int, len(documents))
		for place := range order {
			order[place] = place
		}
	}
	return order, reason
}

func ask(nc *nats.Conn, query string, documents []string, budget time.Duration) ([]int, error) {
	deadline := time.Now().Add(budget)
	body, err := json.Marshal(request{query, documents})
	if err != nil {
		return nil, err
	}
	// A request that waits for the reconnect would leave for an answer that nobody waits for.
	if !nc.IsConnected() {
		return nil, errors.New("disconnected")
	}
	left := time.Until(deadline)
	if left <= 0 {
		return nil, nats.ErrTimeout
	}
	message := nats.NewMsg("rerank.v1.score")
	message.Data = body
	message.Header.Set("Content-Type", "application/json")
	message.Header.Set("Rerank-Timeout-Ms", strconv.FormatFloat(left.Seconds()*1e3, 'f', 3, 64))
	answer, err := nc.RequestMsg(message, left)
	if err != nil {
		return nil, err
	}
	return read(answer.Data, len(documents))
}

// read takes a reply as from a stranger: it has to be a refusal, or a ranking of all the documents.
func read(body []byte, documents int) ([]int, error) {
	var told reply
	if err := json.Unmarshal(body, &told); err != nil {
		return nil, errors.New("bad reply: not JSON")
	}
	if told.Error != nil {
		return nil, fmt.Errorf("refused: %.40q", told.Error.Kind)
	}
	if len(told.Rankings) != documents {
		return nil, errors.New("bad reply: not a ranking of all documents")
	}
	order := make([]int, 0, documents)
	seen := make([]bool, documents)
	for _, ranking := range told.Rankings {
		if ranking.Index == nil || *ranking.Index < 0 || *ranking.Index >= documents || seen[*ranking.Index] {
			return nil, errors.New("bad reply: not the places of the documents")
		}
		if ranking.Score == nil || math.IsNaN(*ranking.Score) || math.IsInf(*ranking.Score, 0) {
			return nil, errors.New("bad reply: a score is no number")
		}
		seen[*ranking.Index] = true
		order = append(order, *ranking.Index)
	}
	return order, nil
}

func main() {
	url := flag.String("url", nats.DefaultURL, "the NATS server")
	budget := flag.Duration("budget", 250*time.Millisecond, "the time that reranking may take in all")
	flag.Parse()
	if flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "usage: go-example [flags] QUERY DOCUMENT...")
		os.Exit(2)
	}
	query, documents := flag.Arg(0), flag.Args()[1:]

	nc, err := nats.Connect(*url, nats.Name("nats-rerank go example"), nats.MaxReconnects(-1))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer nc.Close()
	order, reason := rerank(nc, query, documents, *budget)
	if reason != nil {
		fmt.Println("order: ann,", reason)
	} else {
		fmt.Println("order: model")
	}
	for _, place := range order {
		fmt.Println(documents[place])
	}
}
