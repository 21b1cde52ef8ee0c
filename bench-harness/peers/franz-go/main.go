// One phase of a bench through franz-go, tuned as its documentation recommends: linger 100 ms, batches of at most
// 1,000,000 bytes, acks=all, idempotence, lz4. Prints one JSON object in the shape of `ottla bench --json`: effective
// settings and what the phase cost.
package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ottla/bench-harness/peers/gocommon"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Makes records.
type source struct {
	*gocommon.Source[kgo.RecordHeader]
	topic      string
	topics     [3]string // Klife's
	base       int64
	partitions int
}

func (s *source) record(index uint64) *kgo.Record {
	c := s.Content(index)
	at := time.UnixMilli(s.base + int64(index/1000))
	return &kgo.Record{Topic: s.topic, Key: c.Key, Value: c.Value, Headers: c.Headers, Timestamp: at}
}

func (s *source) klife(index uint64) *kgo.Record {
	r := s.record(index)
	r.Topic, r.Partition = s.topics[index%3], gocommon.KlifePartition(index, s.partitions)
	return r
}

// What franz-go says about batches and requests as they pass.
type counters struct {
	batches, batchBytes, produceRequests, fetchRequests atomic.Uint64
	sends                                               bool // a client that does both tells what it sent
}

const headerBytes = 61

func (c *counters) OnProduceBatchWritten(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.ProduceBatchMetrics) {
	c.batches.Add(1)
	c.batchBytes.Add(uint64(m.CompressedBytes) + headerBytes)
}

func (c *counters) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	if c.sends {
		return
	}
	c.batches.Add(1)
	c.batchBytes.Add(uint64(m.CompressedBytes) + headerBytes)
}

func (c *counters) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	switch key {
	case 0:
		c.produceRequests.Add(1)
	case 1:
		c.fetchRequests.Add(1)
	}
}

// Memory of fetched records, used again after Recycle.
type pools struct{ bytes, records sync.Pool }

func (p *pools) GetDecompressBytes(compressed []byte, _ kgo.CompressionCodecType) []byte {
	if got, ok := p.bytes.Get().(*[]byte); ok {
		return *got
	}
	return make([]byte, 0, 6*len(compressed))
}
func (p *pools) PutDecompressBytes(b []byte) { p.bytes.Put(&b) }
func (p *pools) GetRecords(n int) []kgo.Record {
	if got, ok := p.records.Get().(*[]kgo.Record); ok && cap(*got) >= n {
		return *got
	}
	return make([]kgo.Record, 0, n)
}
func (p *pools) PutRecords(r []kgo.Record) { p.records.Put(&r) }

// Records that failed.
type failures struct{ atomic.Uint64 }

func (f *failures) done(_ *kgo.Record, err error) {
	if err != nil {
		f.Add(1)
	}
}

func (f *failures) check() {
	if failed := f.Load(); failed > 0 {
		gocommon.Fail(fmt.Errorf("%d records failed", failed))
	}
}

func produce(client *kgo.Client, from *source, job *gocommon.Job) gocommon.Acks {
	var failed failures
	acks := gocommon.NewAcks() // promises are called one at a time
	ctx := context.Background()
	start := time.Now()
	for index := uint64(0); index < job.Messages; index++ {
		promise := failed.done
		if job.Mode == "waited" {
			started := time.Now()
			gocommon.Fail(client.ProduceSync(ctx, from.record(index)).FirstErr())
			acks.Add(time.Since(started))
			continue
		}
		if job.Times(index) {
			since := job.Due(start, index)
			promise = func(r *kgo.Record, err error) {
				acks.Add(time.Since(since))
				failed.done(r, err)
			}
		}
		client.Produce(ctx, from.record(index), promise)
	}
	gocommon.Fail(client.Flush(ctx))
	failed.check()
	return acks
}

// Klife's benches: workers that wait for three records at a time, or tasks that only send, each with its share of the indices.
func klife(client *kgo.Client, from *source, job *gocommon.Job, waits bool) (gocommon.Acks, uint64) {
	var all sync.WaitGroup
	var together sync.Mutex
	var sent atomic.Uint64
	var failed failures
	merged, ctx, start := gocommon.NewAcks(), context.Background(), time.Now()
	ended := func() bool { return job.Limit > 0 && time.Since(start) >= job.Limit }
	wait := func(first, last uint64) {
		mine, index := gocommon.NewAcks(), first
		for ; index < last && !ended(); index += 3 {
			started := time.Now()
			gocommon.Fail(client.ProduceSync(ctx, from.klife(index), from.klife(index+1), from.klife(index+2)).FirstErr())
			mine.Add(time.Since(started))
		}
		sent.Add(index - first)
		together.Lock()
		defer together.Unlock()
		merged.Merge(mine.Histogram)
	}
	send := func(first, last uint64) {
		index := first
		for ; index < last && (index%256 != 0 || !ended()); index++ {
			promise := failed.done
			if index%gocommon.AckSample == 0 {
				started := time.Now()
				promise = func(r *kgo.Record, err error) {
					merged.Add(time.Since(started))
					failed.done(r, err)
				}
			}
			client.Produce(ctx, from.klife(index), promise)
		}
		sent.Add(index - first)
	}
	for worker := uint64(0); worker < job.Number; worker++ {
		at := func(worker uint64) uint64 { return job.Messages / 3 * worker / job.Number * 3 }
		all.Go(func() {
			if waits {
				wait(at(worker), at(worker+1))
			} else {
				send(at(worker), at(worker+1))
			}
		})
	}
	all.Wait()
	gocommon.Fail(client.Flush(ctx))
	failed.check()
	return merged, sent.Load()
}

// Reads so many records; to catch up, at least so many and until every partition was read to the end that came with its
// last records.
func consume(client *kgo.Client, job *gocommon.Job, pooled bool) (count, sum uint64) {
	ctx := context.Background()
	catchUp, atEnd, missing := job.Mode == "catch-up", make([]bool, job.Partitions), job.Partitions
	for count < job.Messages || (catchUp && missing > 0) {
		fetches := client.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			gocommon.Fail(e.Err)
		}
		if catchUp {
			fetches.EachPartition(func(p kgo.FetchTopicPartition) {
				if n := len(p.Records); n > 0 {
					atEnd[p.Partition] = p.Records[n-1].Offset+1 >= p.HighWatermark
				}
			})
			missing = 0
			for _, is := range atEnd {
				if !is {
					missing++
				}
			}
		}
		fetches.EachRecord(func(r *kgo.Record) {
			count++
			sum += gocommon.Sum(r.Key, r.Value, r.Headers)
			if pooled {
				r.Recycle()
			}
		})
	}
	return count, sum
}

func main() {
	pooled := flag.Bool("pooled", false, "give fetched records back to pools")
	job := gocommon.ReadJob()
	codecs := map[string]kgo.CompressionCodec{"lz4": kgo.Lz4Compression(), "none": kgo.NoCompression()}
	codec, known := codecs[job.Compression]
	if !known {
		gocommon.Fail(fmt.Errorf("unknown compression %s", job.Compression))
	}
	mixed, met := job.Mode == "mixed", &counters{sends: job.Produces}
	opts := []kgo.Opt{kgo.SeedBrokers(strings.Split(job.Bootstrap, ",")...), kgo.WithHooks(met)}
	shown := map[string]any{"request_timeout_overhead": kgo.RequestTimeoutOverhead}
	var from *source
	if job.Produces {
		made, err := gocommon.NewSource[kgo.RecordHeader](job.Workload, job.Messages)
		gocommon.Fail(err)
		t := job.Topic
		from = &source{made, t, [3]string{t + "-0", t + "-1", t + "-2"}, time.Now().UnixMilli(), job.Partitions}
		opts = append(opts, kgo.ProducerLinger(time.Duration(job.Linger)*time.Millisecond), kgo.ProducerBatchMaxBytes(int32(job.BatchSize)),
			kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(codec))
		if job.InFlight > 0 {
			opts = append(opts, kgo.MaxProduceRequestsInflightPerBroker(job.InFlight))
		}
		if strings.HasPrefix(job.Mode, "klife-") {
			opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		}
		shown["linger"], shown["batch_max_bytes"] = kgo.ProducerLinger, kgo.ProducerBatchMaxBytes
		shown["max_buffered_records"], shown["max_buffered_bytes"] = kgo.MaxBufferedRecords, kgo.MaxBufferedBytes
		shown["max_in_flight"], shown["disable_idempotent_write"] = kgo.MaxProduceRequestsInflightPerBroker, kgo.DisableIdempotentWrite
		shown["broker_max_write_bytes"] = kgo.BrokerMaxWriteBytes
	}
	if !job.Produces || mixed {
		offsets := map[int32]kgo.Offset{}
		for p := 0; p < job.Partitions; p++ {
			offsets[int32(p)] = kgo.NewOffset().AtStart()
		}
		opts = append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{job.Topic: offsets}))
		if *pooled {
			opts = append(opts, kgo.WithPools(&pools{}))
		}
		shown["fetch_max_bytes"], shown["fetch_max_partition_bytes"] = kgo.FetchMaxBytes, kgo.FetchMaxPartitionBytes
		shown["fetch_max_wait"], shown["fetch_min_bytes"] = kgo.FetchMaxWait, kgo.FetchMinBytes
		shown["max_concurrent_fetches"] = kgo.MaxConcurrentFetches
	}
	meter := gocommon.Start()
	client, err := kgo.NewClient(opts...)
	gocommon.Fail(err)
	told := gocommon.Told{Messages: job.Messages}
	switch {
	case !job.Produces:
		told.Messages, told.Sum = consume(client, job, *pooled)
	case mixed:
		var reader sync.WaitGroup
		reader.Go(func() { _, told.Sum = consume(client, job, *pooled) })
		told.Acks = produce(client, from, job)
		reader.Wait()
	case job.Mode == "klife-sync" || job.Mode == "klife-async":
		told.Acks, told.Messages = klife(client, from, job, job.Mode == "klife-sync")
	case job.Mode == "full" || job.Mode == "waited" || job.Mode == "paced":
		told.Acks = produce(client, from, job)
	default:
		gocommon.Fail(fmt.Errorf("unknown mode %s", job.Mode))
	}
	client.Close()
	told.Batches, told.WireBytes, told.Requests = met.batches.Load(), met.batchBytes.Load(), met.fetchRequests.Load()
	if job.Produces {
		told.Requests = met.produceRequests.Load()
	}
	meter.Report(job, told, func(settings map[string]any) {
		settings["peer"], settings["version"] = "franz-go", "1.22.2"
		// As the client has them, set or not.
		for name, option := range shown {
			settings[name] = fmt.Sprint(client.OptValue(option))
		}
		if job.Produces {
			settings["acks"], settings["compression"] = "all", job.Compression
		}
		if !job.Produces || mixed {
			settings["pooled"] = *pooled
		}
	})
}
