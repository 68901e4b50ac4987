#!/bin/sh
# A worker without the SDK, in kcat, jq and shell: does the tasks of one partition, in order.
# usage: worker.sh BROKERS TOPIC PARTITION
set -eu
brokers=$1 topic=$2 partition=$3

# Our position in the partition. We keep it ourselves: kcat commits a consumer group's offset
# as soon as it has read a record, and a crash before the answer would lose the task.
place=${PLACES:-.}/$topic-$partition.next

# The work: the payload on stdin, the result on stdout; failing rejects, with the reason on stdout.
pack() {
  payload=$(cat)
  if [ "$(printf '%s' "$payload" | jq -r .order)" = sold-out ]; then echo 'out of stock'; return 1; fi
  printf '%s' "$payload" | jq -c '{parcel: ("parcel of " + .order)}'
}

# The task in a record as kcat prints it, if it has one with the payload that we expect. With an
# awakeable-id header the headers say what the task is, and the value may be the bare payload.
task='
  ((.headers // []) as $list | [range(0; $list | length; 2) | {($list[.]): $list[. + 1]}] | add // {}) as $headers
  | (if (.payload // "") == "" then null else .payload | fromjson end) as $value
  | ($value | if type == "object" then . else {} end) as $fields
  | if $headers["awakeable-id"] == null then (if $headers["awakeable-event-id"] then {} else $fields end) else
      {awakeable_id: $headers["awakeable-id"], event_id: $headers["awakeable-event-id"],
       reply_to: $headers["awakeable-reply-to"], deadline: $headers["awakeable-deadline"]}
      | .payload = (if [.awakeable_id, .event_id, .reply_to] == ($fields | [.awakeable_id, .event_id, .reply_to])
                    then $fields.payload else $value end)
    end
  | select(([.awakeable_id, .reply_to, .payload.order] | map(type)) == ["string", "string", "string"])
  | .late = (.deadline != null and (.deadline | sub("\\.[0-9]+"; "") | fromdateiso8601) <= now)'

# One line from stdin to a topic, under a key; returns when every in-sync replica has it.
send() {
  to=$1 key=$2; shift 2
  kcat -P -q -b "$brokers" -t "$to" -k "$key" -X acks=all -X enable.idempotence=true "$@"
}

exists() {
  metadata=$(kcat -L -J -b "$brokers") || exit 1 # Kafka is down: keep our position
  printf '%s' "$metadata" | jq -e --arg topic "$1" 'any(.topics[]; .topic == $topic)' >/dev/null
}

# Sends a record to the dead-letter topic; the task topic has it as well, until its retention.
set_aside() {
  offset=$(printf '%s' "$record" | jq .offset)
  echo "worker.sh: $1: $topic [$partition] at offset $offset: $2" >&2
  if exists "$topic.dlq"; then
    set -- -H "__connect.errors.topic=$topic" -H "__connect.errors.partition=$partition" \
      -H "__connect.errors.offset=$offset" -H "__connect.errors.class.name=$1" \
      -H "__connect.errors.exception.message=$2" -H "awakeable-error-code=$1"
    printf '%s\n' "$record" | send "$topic.dlq" "$topic-$partition" "$@" ||
      printf '%s' "$record" | jq -c 'del(.payload)' | # perhaps it was too large
      send "$topic.dlq" "$topic-$partition" "$@" -H "awakeable-value-omitted=it did not fit"
  else
    echo "worker.sh: there is no topic $topic.dlq, so the record is only in the task topic" >&2
  fi
}

answer() {
  id=$(printf '%s' "$1" | jq -r .awakeable_id)
  reply_to=$(printf '%s' "$1" | jq -r .reply_to)
  more='{awakeable_id: $id, worker: "shell", event_id: ($id + ":1")}'
  if ! result=$(printf '%s' "$1" | jq -c .payload | pack) ||
    ! completion=$(printf '%s' "$result" | jq -ce --arg id "$id" "$more + {status: \"resolved\", value: .}"); then
    completion=$(printf '%s' "$result" | jq -cRs --arg id "$id" "$more + {status: \"rejected\", reason: ., code: 409}")
  fi
  if exists "$reply_to"; then
    printf '%s' "$completion" | send "$reply_to" "$id" || set_aside unanswerable "$reply_to does not accept it"
  else
    set_aside unanswerable "there is no topic $reply_to"
  fi
}

while :; do
  from=$(cat "$place" 2>/dev/null || echo beginning)
  record=$(kcat -C -q -J -b "$brokers" -t "$topic" -p "$partition" -c 1 -o "$from" -X auto.offset.reset=earliest)
  if ! found=$(printf '%s' "$record" | jq -ce "$task"); then
    set_aside unreadable 'not a task, or no order in its payload' # and go on
  elif [ "$(printf '%s' "$found" | jq .late)" = false ]; then
    answer "$found"
  fi
  # Not earlier: a crash in between would lose the task.
  printf '%s' "$record" | jq '.offset + 1' >"$place.new" && mv "$place.new" "$place"
done
