-- The shop's database, as it stands on old before a move. Loaded once by a superuser into an empty database:
--
--   psql -X -v ON_ERROR_STOP=1 -v owner=shop -d DATABASE -f schema.sql
--
-- `owner` is an existing role without superuser rights that may create in schema public (the database's owner).
-- Besides the tables that the shop writes there is one of each kind of thing that is easily left behind: a
-- sequence of its own, an enum, a composite key, a view, an unlogged table, a large object, grants.
\set ON_ERROR_STOP on
begin;
set local role :"owner";

create table orders (
  id        bigint generated always as identity primary key,
  key       text not null unique,
  customer  text not null,
  amount    integer not null,
  placed_by text,
  placed_at timestamptz default now()
);

create table order_lines (
  order_id bigint not null references orders (id),
  line     integer not null,
  item     text,
  primary key (order_id, line)
);

-- Not an identity column: the application draws the number itself, so that a sequence which was left behind shows
-- as a failed order.
create sequence invoice_numbers;

create table invoices (
  number   bigint primary key,
  order_id bigint not null unique references orders (id)
);

-- What outside write probes insert into.
create table probe (
  at timestamptz not null default now(),
  n  bigint primary key
);

-- One row a run of what must never run twice.
create table worker_runs (
  n    bigint primary key,
  host text not null,
  at   timestamptz not null default now()
);

create type tier as enum ('plain', 'silver', 'gold');

create table customers (
  name  text primary key,
  tier  tier not null default 'plain',
  since date not null
);

create table stock (
  warehouse integer not null,
  sku       text not null,
  on_hand   integer not null check (on_hand >= 0),
  primary key (warehouse, sku)
);

create unlogged table carts (
  session text primary key,
  content text not null
);

create view order_totals as
  select o.key, o.customer, o.amount, count(l.line) as lines
  from orders o left join order_lines l on l.order_id = o.id
  group by o.id;

insert into customers (name, tier, since)
select 'customer-' || n, (array['plain', 'silver', 'gold'])[1 + n % 3]::tier, date '2019-01-01' + n
from generate_series(1, 500) n;

insert into stock (warehouse, sku, on_hand)
select w, 'sku-' || s, (w * 37 + s * 11) % 400
from generate_series(1, 4) w, generate_series(1, 500) s;

insert into orders (key, customer, amount, placed_by)
select 'seed-' || lpad(n::text, 6, '0'), 'customer-' || (1 + n % 500), 100 + n % 9000, 'seed'
from generate_series(1, 3000) n;

insert into order_lines (order_id, line, item)
select o.id, l, 'sku-' || (1 + (o.id * 7 + l) % 500)
from orders o, generate_series(1, 2) l;

insert into carts (session, content)
select 'session-' || n, repeat('x', 100) from generate_series(1, 200) n;

insert into invoices (number, order_id) select nextval('invoice_numbers'), id from orders order by id;

create table documents (
  name    text primary key,
  content oid not null
);
insert into documents (name, content)
values ('terms of sale', lo_from_bytea(0, convert_to(repeat('Terms of sale. ', 20000), 'UTF8')));

grant select on order_totals to public;

commit;
