// The franz-go side of the foreign-client proofs. See ci/foreign/README.md for the command line that all of them share.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type line struct {
	Partition int32        `json:"partition"`
	Offset    *int64       `json:"offset,omitempty"`
	Timestamp int64        `json:"timestamp"`
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Headers   [][2]*string `json:"headers"`
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "franz-go: "+format+"\n", args...)
	os.Exit(1)
}

func unhex(text *string) []byte {
	if text == nil {
		return nil
	}
	out, err := hex.DecodeString(*text)
	if err != nil {
		fail("bad hex: %v", err)
	}
	if out == nil {
		out = []byte{}
	}
	return out
}

func tohex(data []byte) *string {
	if data == nil {
		return nil
	}
	text := hex.EncodeToString(data)
	return &text
}

func main() {
	if len(os.Args) < 2 {
		fail("create, produce or consume")
	}
	verb := os.Args[1]
	flags := flag.NewFlagSet(verb, flag.ExitOnError)
	bootstrap := flags.String("bootstrap", "", "host:port,...")
	topic := flags.String("topic", "", "topic")
	codec := flags.String("codec", "none", "none gzip snappy lz4 zstd")
	file := flags.String("file", "", "records, one JSON object per line")
	acks := flags.String("acks", "all", "all 1 0")
	partitions := flags.String("partitions", "all", "all or 0,1,...")
	count := flags.Int("count", -1, "records expected")
	isolation := flags.String("isolation", "read_uncommitted", "read_uncommitted read_committed")
	timeout := flags.Float64("timeout", 60, "seconds")
	replicas := flags.Int("replicas", 1, "replication factor (create)")
	flags.Parse(os.Args[2:])
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*timeout*float64(time.Second)))
	defer cancel()
	seeds := kgo.SeedBrokers(strings.Split(*bootstrap, ",")...)
	switch verb {
	case "create":
		create(ctx, seeds, strings.Split(*topic, ","), *partitions, *replicas)
	case "produce":
		produce(ctx, seeds, *topic, *codec, *acks, *file)
	case "consume":
		consume(ctx, seeds, *topic, *partitions, *count, *isolation)
	default:
		fail("unknown verb %s", verb)
	}
}

// create makes topics; it is here so that the proofs need no other admin client.
func create(ctx context.Context, seeds kgo.Opt, topics []string, partitions string, replicas int) {
	var number int32
	if _, err := fmt.Sscan(partitions, &number); err != nil {
		fail("--partitions must be a number")
	}
	client, err := kgo.NewClient(seeds)
	if err != nil {
		fail("%v", err)
	}
	defer client.Close()
	answers, err := kadm.NewClient(client).CreateTopics(ctx, number, int16(replicas), nil, topics...)
	if err == nil {
		err = answers.Error()
	}
	if err != nil {
		fail("create: %v", err)
	}
	fmt.Printf("{\"created\":%d}\n", len(answers))
}

func produce(ctx context.Context, seeds kgo.Opt, topic, codec, acks, file string) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	chosen, ok := codecs[codec]
	if !ok {
		fail("unknown codec %s", codec)
	}
	opts := []kgo.Opt{seeds, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(chosen),
		kgo.ProducerLinger(20 * time.Millisecond), kgo.ClientID("foreign-franz-go")}
	switch acks {
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		fail("%v", err)
	}
	defer client.Close()
	in, err := os.Open(file)
	if err != nil {
		fail("%v", err)
	}
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 64<<20)
	var results kgo.FirstErrPromise
	count := 0
	for scanner.Scan() {
		if len(strings.TrimSpace(scanner.Text())) == 0 {
			continue
		}
		var l line
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			fail("line %d: %v", count+1, err)
		}
		record := &kgo.Record{Topic: topic, Partition: l.Partition, Timestamp: time.UnixMilli(l.Timestamp),
			Key: unhex(l.Key), Value: unhex(l.Value)}
		for _, header := range l.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: *header[0], Value: unhex(header[1])})
		}
		client.Produce(ctx, record, results.Promise())
		count++
	}
	if err := scanner.Err(); err != nil {
		fail("%v", err)
	}
	if err := results.Err(); err != nil {
		fail("produce: %v", err)
	}
	fmt.Printf("{\"produced\":%d}\n", count)
}

func consume(ctx context.Context, seeds kgo.Opt, topic, partitions string, count int, isolation string) {
	admin, err := kgo.NewClient(seeds)
	if err != nil {
		fail("%v", err)
	}
	listing := kadm.NewClient(admin)
	first, err := listing.ListStartOffsets(ctx, topic)
	if err == nil {
		err = first.Error()
	}
	if err != nil {
		fail("start offsets: %v", err)
	}
	list := listing.ListEndOffsets
	level := kgo.ReadUncommitted()
	if isolation == "read_committed" {
		list, level = listing.ListCommittedOffsets, kgo.ReadCommitted()
	}
	last, err := list(ctx, topic)
	if err == nil {
		err = last.Error()
	}
	if err != nil {
		fail("end offsets: %v", err)
	}
	admin.Close()
	wanted := map[int32]bool{}
	if partitions != "all" {
		for _, one := range strings.Split(partitions, ",") {
			var number int32
			if _, err := fmt.Sscan(one, &number); err != nil {
				fail("partition %q", one)
			}
			wanted[number] = true
		}
	}
	ends, begin := map[int32]int64{}, map[int32]kgo.Offset{}
	last.Each(func(end kadm.ListedOffset) {
		start, _ := first.Lookup(topic, end.Partition)
		if (partitions == "all" || wanted[end.Partition]) && start.Offset < end.Offset {
			ends[end.Partition] = end.Offset
			begin[end.Partition] = kgo.NewOffset().At(start.Offset)
		}
	})
	lines := []line{}
	if len(ends) > 0 {
		client, err := kgo.NewClient(seeds, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: begin}),
			kgo.KeepControlRecords(), kgo.FetchIsolationLevel(level), kgo.ClientID("foreign-franz-go"))
		if err != nil {
			fail("%v", err)
		}
		for len(ends) > 0 {
			fetches := client.PollFetches(ctx)
			if errs := fetches.Errors(); len(errs) > 0 {
				fail("fetch: %v (%d records so far, unfinished %v)", errs[0].Err, len(lines), ends)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				end, open := ends[r.Partition]
				if !open || r.Offset >= end {
					return
				}
				if r.Offset == end-1 {
					delete(ends, r.Partition)
				}
				if r.Attrs.IsControl() {
					return
				}
				offset := r.Offset
				l := line{Partition: r.Partition, Offset: &offset, Timestamp: r.Timestamp.UnixMilli(),
					Key: tohex(r.Key), Value: tohex(r.Value), Headers: [][2]*string{}}
				for _, header := range r.Headers {
					name := header.Key
					l.Headers = append(l.Headers, [2]*string{&name, tohex(header.Value)})
				}
				lines = append(lines, l)
			})
		}
		client.Close()
	}
	sort.SliceStable(lines, func(a, b int) bool {
		if lines[a].Partition != lines[b].Partition {
			return lines[a].Partition < lines[b].Partition
		}
		return *lines[a].Offset < *lines[b].Offset
	})
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	for _, l := range lines {
		if err := encoder.Encode(l); err != nil {
			fail("%v", err)
		}
	}
	out.Flush()
	if count >= 0 && count != len(lines) {
		fail("%d records where %d were expected", len(lines), count)
	}
}
