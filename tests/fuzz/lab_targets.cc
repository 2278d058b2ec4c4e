// What the lab's judge and workload read: a judge that can be led astray proves nothing.
#include "lab/checker/frames.h"
#include "lab/workload/http.h"
#include "lab/workload/record.h"
#include "tests/fuzz/target.h"

namespace midstream::fuzz {

namespace {

using Seeds = std::vector<std::string>;

void witness_frame(std::string_view input) { (void)lab::parse_frame(input); }

Seeds witness_frame_seeds() {
  const lab::Mac mac{2, 0, 0, 0, 0, 1};
  return {lab::make_question("192.0.2.10", "192.0.2.62", mac), lab::make_question("2001:db8::10", "2001:db8::62", mac)};
}

void ledger(std::string_view input) {
  (void)lab::parse_ledger(input);
  const auto record = lab::parse_record(input);
  if (!record) return;
  const auto line = lab::to_line(*record);
  const auto again = lab::parse_record(line);
  must(again && lab::to_line(*again) == line, "a record is read as it is written");
}

Seeds ledger_seeds() {
  lab::Record start{.type = lab::RecordType::start, .boot_ns = 5, .wall_ms = 7, .prefix = "p-", .boot_id = "b"};
  lab::Record attempted{.type = lab::RecordType::attempted, .boot_ns = 6, .wall_ms = 8, .op = 1, .kind = lab::OpKind::order, .key = "p-1",
                        .customer = "c", .amount = 3, .items = {"x"}};
  auto acknowledged = attempted;
  acknowledged.type = lab::RecordType::acknowledged;
  acknowledged.id = 9;
  acknowledged.status = 201;
  Seeds seeds;
  std::string file;
  for (const auto& one : {start, attempted, acknowledged}) {
    seeds.push_back(lab::to_line(one));
    file += lab::to_line(one) + "\n";
  }
  seeds.push_back(file);
  return seeds;
}

void shop_http(std::string_view input) {
  (void)lab::parse_request_head(input);
  (void)lab::parse_response_head(input);
  (void)lab::parse_http_url(input);
}

Seeds shop_http_seeds() {
  return {"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nX-Host: a\r\nContent-Length: 0\r\n\r\n",
          "http://shop.example:8080/orders"};
}

}  // namespace

std::vector<Target> lab_targets() {
  return {{"witness_frame", witness_frame, witness_frame_seeds}, {"ledger", ledger, ledger_seeds}, {"shop_http", shop_http, shop_http_seeds}};
}

}  // namespace midstream::fuzz
