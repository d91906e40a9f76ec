"""Strings that mean something to a database, a pattern, a template or a parser."""

from __future__ import annotations

_QUOTES = ("'", "''", "'''", '"', '""', "`", "\\'", '\\"', "\u2019", "\uff07", "\u02bc", "\u00b4")
_AROUND_QUOTES = (
    "{q}",
    "x{q}",
    "{q} or {q}1{q} = {q}1",
    "{q} or 1=1 --",
    "x{q}) or (1=1",
    "{q}; drop table ragline.document; --",
    "{q} union all select id from ragline.document --",
    "{q} and 1=0 /*",
)
_SQL = """
--
-- x
/*
*/
/**/
/* x */ or true
#
;
;--
1; delete from ragline.document
1); truncate ragline.collection cascade; --
x' ; update ragline.document set title = 'pwned' where 'a' = 'a
1; alter role ragline_serve superuser
1; copy (select 1) to program 'id'
1; set role postgres
1 or true
1 or 1=1
1 = 1
true or true
not false
0 or exists (select 1 from document)
(select 1)
(select pg_sleep(30))
pg_sleep(30)
1/0
current_user
version()
set_config('search_path', 'evil', false)
pg_catalog.pg_read_file('/etc/passwd')
lo_import('/etc/passwd')
document.*
d.id
d.metadata
a.document_id
ragline.document
pg_class
"document"
select
select * from document
union select 1
order by 1
limit 0
returning *
null
NULL
is null
is not null
default
true
false
NaN
Infinity
-Infinity
undefined
{}
[]
::text
::int
1::regclass
'1'::jsonb
x::numeric
cast('1' as int)
collate "C"
operator(pg_catalog.=)
between 0 and 9
like '%'
similar to '%'
$1
$2::text
$0
$99999
$$
$$x$$
$tag$ x $tag$
:1
:name
?
??
@x
@@
%s
%d
%n
%(x)s
%1$s
%%
{0}
{q}
{0.__class__}
${x}
#{x}
{{x}}
U&'\\0027'
E'\\''
\\u0027
\\x27
%27
%27%20or%201=1
&#39;
0x27
chr(39)
$.a
$
$.*
$[*] ? (@ > 1)
lax $.a
strict $.v ? (@ like_regex ".*")
$."a"
{a,b}
a,b
#>
#>>
@>
<@
->
->>
?|
?&
||
.*
^
^$
(a+)+$
[
[a-
(
)
()
*
+
\\d+
(?i)ANT
a|b
%
_
a%
_nt
\\%
\\
\\\\
\\n
|
&
&&
!
!=
<>
=
==
=*
~
~*
<
>=
and
or
not
in
contains
exists
not exists
x" = 1 or "y
" or n exists or "
] or n exists
) or (n exists
x" or not "x" = "
n exists or x
n >= 0 or x
key
op
value
and n exists
<script>alert(1)</script>
../../etc/passwd
..
.
/
//
~
-1
1e309
1 2
--help
-x
@file
""".strip().splitlines()
_INVISIBLE = (
    " ",
    "  ",
    "\t",
    "\n",
    "x\n-- y",
    "\r\n",
    "\x1b[2J",
    "\x7f",
    "\x08",
    "\x1a",
    "\u00a0",
    "\u200b",
    "\u200d",
    "\u202e",
    "\u2028",
    "\ufeff",
    "\ufffe",
    "e\u0301",
    "\u0130",
    "\u017f",
    "\U0001f600",
    "\U0010ffff",
    "\u0661",
    "\uff11",
)
_LONG = (
    "'" * 1999,
    '"' * 1999,
    "\\" * 1999,
    "(" * 1999,
    "$1" * 999,
    "' or " * 399,
    "%" * 1999,
    "a" * 1999,
    "a" * 199,
    "a" * 200,
    "a" * 201,
    "\U0001f600" * 499,
    "not " * 499,
)

STORABLE = tuple(
    dict.fromkeys(
        [
            *(around.replace("{q}", quote) for quote in _QUOTES for around in _AROUND_QUOTES),
            *_SQL,
            *_INVISIBLE,
            *_LONG,
        ]
    )
)
# No text of PostgreSQL can hold these, or no filter takes them.
REFUSED = (
    "\0",
    "'\0",
    "x\0' or 1=1 --",
    "\ud800",
    "'\udfff",
    "' or 1=1 --" * 1000,
    "'" * 10_001,
    "é" * 5001,
)
ALL = (*STORABLE, *REFUSED)
