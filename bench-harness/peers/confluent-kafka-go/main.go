// One phase of a bench through confluent-kafka-go with its bundled librdkafka: Produce with a linger and without delivery
// reports, as its documentation has it for who needs none (a lost record shows in the broker's count), or with all of them
// where acknowledgements are timed; Poll with a long local queue. Its batch producer knows no headers and no timestamps, and
// its batch consumer is deprecated. Klife's benches are not here: librdkafka sends them through rust-rdkafka.
package main

import (
	"flag"
	"fmt"
	"time"

	"ottla/bench-harness/peers/gocommon"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const flushMS = 600_000

// A record whose acknowledgement is timed since then.
type since time.Time

func config(job *gocommon.Job, reports bool) kafka.ConfigMap {
	if job.Produces {
		config := kafka.ConfigMap{
			"bootstrap.servers":         job.Bootstrap,
			"linger.ms":                 job.Linger,
			"batch.size":                job.BatchSize,
			"batch.num.messages":        10_000,
			"compression.type":          job.Compression,
			"enable.idempotence":        true,
			"acks":                      "all",
			"go.delivery.reports":       reports,
			"go.delivery.report.fields": "none",
		}
		if job.InFlight > 0 {
			config["max.in.flight.requests.per.connection"] = job.InFlight
		}
		return config
	}
	return kafka.ConfigMap{
		"bootstrap.servers":      job.Bootstrap,
		"group.id":               "bench", // nobody joins it: partitions are assigned by hand
		"enable.auto.commit":     false,
		"queued.min.messages":    1_000_000,
		"fetch.queue.backoff.ms": 1,
		"check.crcs":             true,
	}
}

func produce(job *gocommon.Job, config kafka.ConfigMap, reports bool) gocommon.Told {
	from, err := gocommon.NewSource[kafka.Header](job.Workload, job.Messages)
	gocommon.Fail(err)
	base := time.Now().UnixMilli()
	producer, err := kafka.NewProducer(&config)
	gocommon.Fail(err)
	acks, one, all := gocommon.NewAcks(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(all)
		for count := uint64(0); reports && count < job.Messages; {
			report, is := (<-producer.Events()).(*kafka.Message)
			if !is {
				continue
			}
			gocommon.Fail(report.TopicPartition.Error)
			count++
			if report.Opaque != nil {
				acks.Add(time.Since(time.Time(report.Opaque.(since))))
			}
			if job.Mode == "waited" {
				one <- struct{}{}
			}
		}
	}()
	start := time.Now()
	for index := uint64(0); index < job.Messages; index++ {
		c := from.Content(index)
		record := &kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &job.Topic, Partition: kafka.PartitionAny},
			Key: c.Key, Value: c.Value, Headers: c.Headers, Timestamp: time.UnixMilli(base + int64(index/1000))}
		if reports && job.Times(index) {
			record.Opaque = since(job.Due(start, index))
		}
		for err := producer.Produce(record, nil); err != nil; err = producer.Produce(record, nil) {
			if err.(kafka.Error).Code() != kafka.ErrQueueFull {
				gocommon.Fail(err)
			}
			time.Sleep(time.Millisecond)
		}
		if job.Mode == "waited" {
			<-one
		}
	}
	if reports {
		// Flush would take reports out of the hands of who counts them.
		<-all
		return gocommon.Told{Messages: job.Messages, Acks: acks}
	}
	if left := producer.Flush(flushMS); left > 0 {
		gocommon.Fail(fmt.Errorf("%d records were not flushed", left))
	}
	return gocommon.Told{Messages: job.Messages}
}

func consume(job *gocommon.Job, config kafka.ConfigMap) (told gocommon.Told) {
	consumer, err := kafka.NewConsumer(&config)
	gocommon.Fail(err)
	var all []kafka.TopicPartition
	for partition := range job.Partitions {
		all = append(all, kafka.TopicPartition{Topic: &job.Topic, Partition: int32(partition), Offset: kafka.OffsetBeginning})
	}
	gocommon.Fail(consumer.Assign(all))
	for told.Messages < job.Messages {
		switch event := consumer.Poll(1_000).(type) {
		case *kafka.Message:
			gocommon.Fail(event.TopicPartition.Error)
			told.Sum += gocommon.Sum(event.Key, event.Value, event.Headers)
			told.Messages++
		case kafka.Error:
			if event.IsFatal() {
				gocommon.Fail(event)
			}
		}
	}
	return told
}

func main() {
	reports := flag.Bool("reports", false, "full mode with delivery reports; the others have them always")
	job := gocommon.ReadJob()
	*reports = *reports || job.Mode != "full"
	settings := config(job, *reports)
	meter := gocommon.Start()
	var told gocommon.Told
	switch {
	case !job.Produces:
		told = consume(job, settings)
	case job.Mode == "full" || job.Mode == "waited" || job.Mode == "paced":
		told = produce(job, settings, *reports)
	default:
		gocommon.Fail(fmt.Errorf("this peer has no mode %s", job.Mode))
	}
	meter.Report(job, told, func(all map[string]any) {
		_, version := kafka.LibraryVersion()
		all["peer"], all["version"], all["librdkafka"] = "confluent-kafka-go", "2.11.1", version
		// The client does not tell its other settings: they are its librdkafka's defaults.
		for name, value := range settings {
			all[name] = fmt.Sprint(value)
		}
	})
}
