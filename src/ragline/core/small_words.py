"""Small words of languages in Latin letters: what tells a question in one of them from English.

As folded text has them, so Vietnamese stands here as it is typed without its accents. Words that English
has too are listed as well: they do not speak for English then.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_WORDS = {
    "cs": (
        "ale byl byla ceho co jak jaka jake jaky je jeho jsem jsou kde kdo kdy kdyz kolik ktera "
        "ktere ktery mezi mohu muze muzu nebo neni podle pokud pred pri proc proti se si tato ten "
        "tento ve za ze"
    ),
    "da": (
        "af at blev de den der det efter eller en er et for fra har hvad hvem hvilke hvilken hvis "
        "hvor hvordan hvorfor hvornar i ikke jeg kan mellem mit og skal som til var ved vi"
    ),
    "de": (
        "aber als also am an auf aus bei bis dann das dass dem den der des die dies diese diesem "
        "diesen dieser dieses durch ein eine einem einen einer eines er es fur gibt habe haben "
        "hat hatte ich ihr ihre im in ist jede jeder kann kein keine konnen lange man mein meine "
        "meinen mit muss mussen nach nicht ob oder ohne pro seit sich sie sind so uber um und "
        "unter viele vom von vor wann warum was welche welchem welchen welcher welches wenn wer "
        "werden wie wieviel will wir wird wo wofur woher zu zum zur zwischen"
    ),
    "es": (
        "a al como con cual cuales cuando cuanta cuantas cuanto cuantos de del desde donde el "
        "ella en entre es esta estan este esto fue funciona hay la las lo los mas me mi no para "
        "pero por porque puede puedo que quien quienes se segun ser si sin sobre son su sus tiene "
        "un una y"
    ),
    "fi": (
        "ei en ennen ja joka jos kanssa kenen kuin kuinka kuka kun mika miksi milloin mina missa "
        "mita miten mitka mutta niin olla on onko ovat se tai tama taman voi voiko voin"
    ),
    "fr": (
        "a au aux avec ce ces cette combien comment dans de des du elle en entre est et il ils je "
        "la le les leur leurs lors mais me mes mon ne nos notre nous on ou par pas peut peux pour "
        "pourquoi puis quand que quel quelle quelles quels qui quoi sans se ses son sont sous sur "
        "ta ton tu un une vos votre vous y"
    ),
    "hu": (
        "a az egy es ez ezt hany hogy hogyan hol honnan kell ki kinek lehet meg melyik mennyi mi "
        "miert mikor milyen mit nem vagy van volt"
    ),
    "id": (
        "ada adalah agar apa apakah atas atau bagaimana bagaimanakah bagi berakhir berapa bisa "
        "cara dalam dan dapat dari dengan di dimana harus ini itu jika kami kapan karena ke mana "
        "mengapa oleh pada saja saya siapa sudah tentang tidak untuk yang"
    ),
    "it": (
        "a al alla che chi ci come con cosa cui da dal dalla dei del della delle di dopo dove e "
        "gli ha hanno i il in la le lo ma mi mia mio nel nella no non o ogni per perche piu posso "
        "puo qual quale quali quando quanta quante quanti quanto questa questo se senza si sono "
        "su sul tra un una"
    ),
    "nl": (
        "aan als bij dat de deze die dit door een en er geen had hebben heeft het hoe hoeveel ik "
        "in is kan kunnen maar met mijn moet naar niet of om ons onze ook op over te tot uit van "
        "voor waar waarom wanneer was wat we welk welke werd wie wij worden wordt zijn zo"
    ),
    "no": (
        "at av ble de den der det eller en er et etter for fra hva hvem hvilke hvilken hvis hvor "
        "hvordan hvorfor i ikke jeg kan mellom nar og skal som til var ved vi"
    ),
    "pl": (
        "a ale by byc byl byla co czy czym dla dlaczego do gdy gdzie i ile ilu jak jaka jaki "
        "jakie jest kiedy kim kto ktora ktore ktory lub ma mam miedzy moge mozna na nie oraz po "
        "pod przed przez przy sa sie to w z za ze"
    ),
    "pt": (
        "a ao aos as com como da das de do dos e ela ele em entre essa esse esta este eu foi ha "
        "isso mais mas me meu minha na nao nas no nos numa o onde os ou para pela pelas pelo "
        "pelos pode por porque posso quais qual quando quanta quantas quanto quantos que quem sao "
        "se sem ser seu sobre sua tem todos tudo um uma"
    ),
    "ro": (
        "a aceasta acest al ale am are asupra ca cand care cat cate cati ce cine cu cum de despre "
        "din dupa este fi fost i in intre la mai mea meu nu o pe pentru poate pot prin sau se si "
        "sunt un unde unei unui va"
    ),
    "sv": (
        "att av blev de den det du efter eller en ett for fran han har hor hur hurdan i in inte "
        "jag kan med mellan min mitt nar och om pa ska skall som till under ur vad var varfor vem "
        "vi vid vilka vilken vilket"
    ),
    "tr": (
        "bir bu da daha de edebilir en gerekli hangi icin ile kac kadar kim kime kimin lazim mi "
        "midir misin mu musun nasil ne neden nedir nerede nereden nereye niye olan olarak olur "
        "sonra ve veya ya zaman"
    ),
    "vi": (
        "ai an bang bao bi biet cac cach can cho chua co con cua cung da dang de den di dieu do "
        "duoc gi giua hay hoac huong khi khong la lam lau lien mot nao nay nen neu ngay nghi "
        "nghiem nguoi nhieu nhu nhung o phai sao sau se tai the theo thi thiet thoi toi tren "
        "trinh trong truoc tu va ve vi viec voi"
    ),
}

SMALL_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {code: frozenset(words.split()) for code, words in _WORDS.items()}
)
"""By ISO 639-1 code."""
