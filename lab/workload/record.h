// What lab clients write down about each operation: the ledger, docs/formats/ledger.md. Pure: text in, values
// out.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream::lab {

// `seen` and `violation` are remarks of mail's readers: no operations.
enum class RecordType { start, attempted, acknowledged, failed, unknown, end, seen, violation };
enum class OpKind {
  order, order_read, upload, file_read, static_read, db_order,
  deliver, submit, mail_read, flag, move, expunge, pop_read,  // of mail
};
bool is_mail(OpKind kind);

std::string_view to_string(RecordType type);
std::string_view to_string(OpKind kind);
// The service that an operation is a use of: "db" for direct database writers, "mail", "web" for all else.
std::string_view service_of(OpKind kind);

// Where in mail: of operations on mail, and of remarks. `key` is the Message-ID without its angle brackets.
struct MailPart {
  std::string user;    // whose mailbox, or the recipient
  std::string folder;
  std::string change;  // flag: "+\\Seen" or "-\\Seen"; move: the other folder
  std::int64_t uidvalidity = 0, uid = 0;
  int maybe = 0;  // outcomes of deliver, submit: tries that were sent whole and not answered; each may be a copy
};

// One line of a ledger. Fields that a type or kind does not have are empty.
struct Record {
  RecordType type = RecordType::start;
  std::int64_t boot_ns = 0;  // CLOCK_BOOTTIME when the line was written
  std::int64_t wall_ms = 0;
  // start
  std::string prefix;  // every key and file name of this run begins with it
  std::string boot_id;
  // attempted, and echoed by its outcome
  std::uint64_t op = 0;  // unique within a run
  OpKind kind = OpKind::order;
  int lane = 0;          // one user: operations of a lane never overlap
  std::string key;       // order key, or file name
  std::string customer;  // orders
  std::int64_t amount = 0;
  std::vector<std::string> items;
  std::int64_t size = 0;  // uploads
  std::string sha256;
  MailPart mail;
  // outcomes
  std::int64_t started_ns = 0;  // CLOCK_BOOTTIME when the first try began, the ledger's own wait not counted
  int tries = 0;
  int status = 0;       // HTTP status, 0 where there was none
  std::string host;     // X-Host of the answer
  std::int64_t id = 0;  // the order's id as the client was told
  std::string why;      // failed and unknown
};

// One line of JSON without the newline.
std::string to_line(const Record& record);
// Corrupt, naming the field, if the line is no record.
Result<Record> parse_record(std::string_view line);
// All records of one run's file. A last line without its newline was torn by a kill and is left out.
Result<std::vector<Record>> parse_ledger(std::string_view text);

// What the users of one service felt.
struct ServiceFigures {
  std::int64_t requests = 0;  // operations begun
  std::int64_t acknowledged = 0;
  std::int64_t failed = 0;   // the user saw an error, a wrong answer, or none; unknown ones included
  std::int64_t unknown = 0;  // of these, those that may have had an effect
  std::int64_t retried = 0;  // acknowledged, but not at the first try
  // The longest time that one user (lane) waited: from the start of an operation to its acknowledgement, or,
  // where it failed, to the end of that user's next acknowledged one.
  std::int64_t longest_pause_us = 0;
  std::int64_t p50_us = 0, p95_us = 0, p99_us = 0;  // of the acknowledged
  std::map<std::string, std::int64_t> hosts;        // acknowledged, by the host that answered
};

// By service. An attempt without an outcome (the client was killed) counts as unknown but not as failed.
std::map<std::string, ServiceFigures> summarise(const std::vector<Record>& records);
Json to_json(const std::map<std::string, ServiceFigures>& figures);

}  // namespace midstream::lab
