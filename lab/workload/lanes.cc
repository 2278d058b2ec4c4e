#include "lab/workload/lanes.h"

#include <fmt/format.h>

#include <algorithm>

#include "lab/workload/sha256.h"

namespace midstream::lab {
namespace {

constexpr Millis kHttpPatience{10000};      // a user's, before they call it failed
constexpr Millis kDatabasePatience{30000};  // a program's that retries

Order order_of(const Record& record) {
  return Order{record.key, record.customer, static_cast<std::int32_t>(record.amount), record.items};
}

// An answer in the 400s says that nothing was done; one in the 500s may hide a commit.
RecordType type_for(const HttpResponse& response) {
  return response.status >= 400 && response.status < 500 ? RecordType::failed : RecordType::unknown;
}

std::string why(const HttpResponse& response) {
  return fmt::format("status {}: {}", response.status, response.body.substr(0, 200));
}

}  // namespace

Result<> Lane::run(const std::stop_token& stop) {
  auto next = boot_now();
  while (!stop.stop_requested()) {
    CHECK_OK(step());
    next = std::max(next + options_.interval, boot_now());
    pause_for(std::chrono::ceil<Millis>(next - boot_now()), stop);
  }
  return {};
}

Record Lane::new_record(OpKind kind) {
  Record record;
  record.op = ledger_.next_op();
  record.kind = kind;
  record.lane = options_.number;
  return record;
}

Record Lane::new_order(OpKind kind) {
  Record record = new_record(kind);
  record.key = fmt::format("{}{}", ledger_.prefix(), record.op);
  record.customer = fmt::format("customer-{}", 1 + below(500));
  record.amount = 1 + below(100000);
  for (int n = below(4); n >= 0; --n) record.items.push_back(fmt::format("sku-{}", 1 + below(500)));
  return record;
}

Result<> Lane::attempt(Record& record, bool durable) {
  record.type = RecordType::attempted;
  const auto ticket = TRY(ledger_.append(record));
  if (durable) CHECK_OK(ledger_.sync(ticket));
  record.started_ns = boot_now().count();
  record.tries = 1;
  return {};
}

Result<> Lane::outcome(Record record, RecordType type, std::string why) {
  record.type = type;
  record.why = std::move(why);
  CHECK_OK(ledger_.append(std::move(record)));
  return {};
}

Result<> OrderLane::step() {
  return placed_.empty() || below(100) < 60 ? place() : read();
}

Result<> OrderLane::place() {
  Record record = new_order(OpKind::order);
  CHECK_OK(attempt(record, true));
  HttpRequest request{
      "POST", "/orders", {{"content-type", "application/json"}}, to_json(order_of(record)).dump()};
  const auto reply = visitor_.send(request, Deadline::in(kHttpPatience));
  record.tries = reply.tries;
  if (!reply.response) {
    const auto& error = reply.response.error();
    return outcome(record, error.kind == ErrorKind::unknown ? RecordType::unknown : RecordType::failed,
                   error.what);
  }
  const auto& response = *reply.response;
  record.status = response.status;
  record.host = header(response.headers, "x-host");
  if (response.status != 200 && response.status != 201)
    return outcome(record, type_for(response), why(response));
  const auto body = parse_json(response.body, 4);
  record.id = body ? get_int_or(*body, "id", 0) : 0;
  if (record.id <= 0) return outcome(record, RecordType::unknown, "the answer names no order");
  placed_.push_back(StoredOrder{record.id, order_of(record), ""});
  return outcome(record, RecordType::acknowledged);
}

Result<> OrderLane::read() {
  const StoredOrder expected = pick(placed_);
  Record record = new_record(OpKind::order_read);
  record.key = expected.order.key;
  CHECK_OK(attempt(record, false));
  const auto reply =
      visitor_.send(HttpRequest{"GET", "/orders/" + record.key, {}, ""}, Deadline::in(kHttpPatience));
  record.tries = reply.tries;
  if (!reply.response) return outcome(record, RecordType::failed, reply.response.error().what);
  record.status = reply.response->status;
  record.host = header(reply.response->headers, "x-host");
  if (record.status != 200) return outcome(record, RecordType::failed, why(*reply.response));
  const auto body = parse_json(reply.response->body, 4);
  const auto order = body ? order_from_json(*body) : Result<Order>(std::unexpected(body.error()));
  if (!order || *order != expected.order || get_int_or(*body, "id", 0) != expected.id) {
    return outcome(record, RecordType::failed, "the order that was read is not the one that was placed");
  }
  return outcome(record, RecordType::acknowledged);
}

void Showcase::show(Upload upload) {
  const std::lock_guard guard(mutex_);
  uploads_.push_back(std::move(upload));
}

std::optional<Upload> Showcase::newest(std::mt19937_64& random) const {
  const std::lock_guard guard(mutex_);
  if (uploads_.empty()) return std::nullopt;
  const auto among = std::min<std::size_t>(uploads_.size(), 20);
  return uploads_[uploads_.size() - 1 - std::uniform_int_distribution<std::size_t>(0, among - 1)(random)];
}

Result<> FileLane::step() {
  const int dice = below(100);
  if (dice < 10 && !options_.statics.empty()) return read_static();
  if (dice < 45) return upload();
  if (dice >= 72 && !uploads_.empty()) return read(pick(uploads_));
  const auto shown = showcase_.newest(random());
  return shown ? read(*shown) : upload();
}

Result<> FileLane::upload() {
  Record record = new_record(OpKind::upload);
  record.key = fmt::format("{}{}", ledger_.prefix(), record.op);
  const bool replaces = !uploads_.empty() && below(100) < options_.replace_percent;
  if (replaces) record.key = pick(uploads_).name;
  // Mostly small, sometimes not; an empty one now and then.
  const int size = below(20) == 0 ? below(512 << 10) : below(50) == 0 ? 0 : below(16 << 10);
  HttpRequest request{
      "PUT",
      "/files/" + record.key,
      {},
      made_up_bytes(fmt::format("{}#{}", record.key, record.op), static_cast<std::size_t>(size))};
  record.size = size;
  record.sha256 = sha256(request.body);
  CHECK_OK(attempt(record, true));
  // Until it is acknowledged it is not known what a reader of this name gets.
  std::erase_if(uploads_, [&](const Upload& upload) { return upload.name == record.key; });
  const auto reply = visitor_.send(request, Deadline::in(kHttpPatience));
  record.tries = reply.tries;
  if (!reply.response) {
    const auto& error = reply.response.error();
    return outcome(record, error.kind == ErrorKind::unknown ? RecordType::unknown : RecordType::failed,
                   error.what);
  }
  const auto& response = *reply.response;
  record.status = response.status;
  record.host = header(response.headers, "x-host");
  if (response.status != 200 && response.status != 201)
    return outcome(record, type_for(response), why(response));
  const auto body = parse_json(response.body, 4);
  if (!body || get_string_or(*body, "sha256", "") != record.sha256) {
    return outcome(record, RecordType::unknown, "the answer speaks of other content than was sent");
  }
  Upload uploaded{record.key, record.sha256};
  if (replaces || below(2) == 0) {
    uploads_.push_back(std::move(uploaded));
  } else {
    showcase_.show(std::move(uploaded));
  }
  return outcome(record, RecordType::acknowledged);
}

Result<> FileLane::read(const Upload& expected) {
  Record record = new_record(OpKind::file_read);
  record.key = expected.name;
  CHECK_OK(attempt(record, false));
  const auto reply =
      visitor_.send(HttpRequest{"GET", "/files/" + record.key, {}, ""}, Deadline::in(kHttpPatience));
  record.tries = reply.tries;
  if (!reply.response) return outcome(record, RecordType::failed, reply.response.error().what);
  record.status = reply.response->status;
  record.host = header(reply.response->headers, "x-host");
  if (record.status != 200) return outcome(record, RecordType::failed, why(*reply.response));
  if (sha256(reply.response->body) != expected.sha256) {
    return outcome(record, RecordType::failed, "the file that was read is not the one that was uploaded");
  }
  return outcome(record, RecordType::acknowledged);
}

Result<> FileLane::read_static() {
  Record record = new_record(OpKind::static_read);
  record.key = pick(options_.statics);
  CHECK_OK(attempt(record, false));
  const auto reply =
      visitor_.send(HttpRequest{"GET", "/static/" + record.key, {}, ""}, Deadline::in(kHttpPatience));
  record.tries = reply.tries;
  if (!reply.response) return outcome(record, RecordType::failed, reply.response.error().what);
  record.status = reply.response->status;
  record.host = header(reply.response->headers, "x-host");
  if (record.status != 200) return outcome(record, RecordType::failed, why(*reply.response));
  return outcome(record, RecordType::acknowledged);
}

Result<Placed> DatabaseLane::place_once(const Order& order, Deadline deadline) {
  if (!connection_) {
    const auto addresses = host_.empty() ? std::vector<std::string>() : TRY(resolver_.lookup(host_));
    connection_ = TRY(PgConnection::connect(conninfo_, addresses, deadline.sooner(Millis(3000)), {}));
    transactions_ = 0;
  }
  return place_order(*connection_, order, "direct", deadline.sooner(Millis(5000)), {});
}

Result<> DatabaseLane::step() {
  Record record = new_order(OpKind::db_order);
  CHECK_OK(attempt(record, true));
  const auto deadline = Deadline::in(kDatabasePatience);
  bool may_be_there = false;
  Millis pause(5);
  record.tries = 0;
  while (true) {
    ++record.tries;
    const auto placed = place_once(order_of(record), deadline);
    if (placed) {
      record.id = placed->id;
      CHECK_OK(outcome(record, RecordType::acknowledged));
      if (++transactions_ >= options_.visit) connection_.reset();
      return {};
    }
    connection_.reset();
    may_be_there = may_be_there || placed.error().kind == ErrorKind::unknown;
    if (placed.error().kind == ErrorKind::refused || deadline.expired()) {
      return outcome(record, may_be_there ? RecordType::unknown : RecordType::failed, placed.error().what);
    }
    pause_for(pause, {});
    pause = std::min(pause * 2, Millis(50));
  }
}

}  // namespace midstream::lab
