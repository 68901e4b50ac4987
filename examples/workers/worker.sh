#!/bin/sh
# A worker without the SDK, in kcat, jq and shell: does the tasks of one partition, in order.
# usage: worker.sh BROKERS TOPIC PARTITION
set -eu
brokers=$1 topic=$2 partition=$3

# Where we are in the partition. We keep it ourselves: a consumer group's offset is committed by
# kcat as soon as it has read a record, and a crash before the answer would lose the task.
place=${PLACES:-.}/$topic-$partition.next

# The work: the payload on stdin, the result on stdout; to fail is to reject, with the reason on stdout.
pack() {
  order=$(jq -er .order) || { echo 'no order'; return 1; }
  if [ "$order" = sold-out ]; then echo 'out of stock'; return 1; fi
  jq -cn --arg order "$order" '{parcel: ("parcel of " + $order)}'
}

# One line from stdin to a topic, under a key; returns when every in-sync replica has it.
send() { kcat -P -q -b "$brokers" -t "$1" -k "$2" -X acks=all -X enable.idempotence=true; }

answer() {
  task=$1
  id=$(printf '%s' "$task" | jq -r .awakeable_id)
  if result=$(printf '%s' "$task" | jq -c .payload | pack); then
    jq -cn --arg id "$id" --argjson value "$result" \
      '{awakeable_id: $id, status: "resolved", value: $value, worker: "shell", event_id: ($id + ":1")}'
  else
    jq -cn --arg id "$id" --arg reason "$result" \
      '{awakeable_id: $id, status: "rejected", reason: $reason, code: 409, worker: "shell", event_id: ($id + ":1")}'
  fi | send "$(printf '%s' "$task" | jq -r .reply_to)" "$id"
}

late='.deadline != null and (.deadline | sub("\\.[0-9]+"; "") | fromdateiso8601) <= now'

while :; do
  record=$(kcat -C -q -J -b "$brokers" -t "$topic" -p "$partition" -c 1 -o "$(cat "$place" 2>/dev/null || echo beginning)")
  if ! task=$(printf '%s' "$record" | jq -ce '.payload | fromjson | select(.awakeable_id and .reply_to)'); then
    printf '%s\n' "$record" | send "$topic.dlq" "$topic-$partition" # no task: set it aside, and go on
  elif [ "$(printf '%s' "$task" | jq "$late")" = false ]; then
    answer "$task"
  fi
  # Only now: were it before, a crash in between would lose the task.
  printf '%s' "$record" | jq '.offset + 1' >"$place.new" && mv "$place.new" "$place"
done
